"""Settings from a file, the environment and flags."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mplug_services.config import (
    IMAGE_SIZE_SETTINGS,
    MODEL_SETTINGS,
    TEXT_TASKS,
    ConfigurationError,
    ModelSource,
    ServeConfig,
    load_config,
)


def write(folder: Path, text: str) -> Path:
    file = folder / "serve.yaml"
    file.write_text(text)
    return file


WRITER = {"text-generation": ModelSource("gpt3-poem-mini")}
"""What writes texts unless a setting says otherwise."""


def test_defaults() -> None:
    config = load_config(environment={})
    assert config == ServeConfig()
    assert (config.host, config.port) == ("127.0.0.1", 50051)
    assert config.sources == {**dict.fromkeys(IMAGE_SIZE_SETTINGS, ModelSource("mplug-mini")), **WRITER}
    assert config.needs_model
    assert config.needs_index


def test_the_later_source_wins(tmp_path: Path) -> None:
    file = write(tmp_path, "port: 1001\nqueue-size: 300\ndevice: cuda\nservices: [index, model]\n")
    environment = {"MPLUG_PORT": "1002", "MPLUG_QUEUE_SIZE": "400", "MPLUG_REFLECTION": "off", "HOME": "/x"}
    config = load_config({"port": 1003, "model": None}, file=file, environment=environment)
    assert (config.port, config.queue_size, config.device) == (1003, 400, "cuda")
    assert (config.services, config.reflection, config.model) == (("index", "model"), False, "mplug-mini")
    assert not config.needs_model


def test_values_become_what_their_settings_are() -> None:
    environment = {
        "MPLUG_DATA_DIR": "here",
        "MPLUG_IMAGE_ROOT": "",
        "MPLUG_SERVICES": "embedding, search",
        "MPLUG_GRACE_SECONDS": "2.5",
    }
    config = load_config(environment=environment)
    assert (config.data_dir, config.image_root) == (Path("here"), None)
    assert (config.services, config.grace_seconds) == (("embedding", "search"), 2.5)


def test_a_task_s_model_has_a_place_and_perhaps_a_size(tmp_path: Path) -> None:
    file = write(tmp_path, "caption-model: captions\ncaption-image-size: 512\nvqa_image_size: 480\n")
    config = load_config({"image_size": "256"}, file=file, environment={"MPLUG_RERANK_MODEL": "captions"})
    assert config.sources == {
        "retrieval": ModelSource("mplug-mini", 256),
        "caption": ModelSource("captions", 512),
        "rerank": ModelSource("captions", None),
        "vqa": ModelSource("mplug-mini", 480),
        **WRITER,
    }
    assert [*IMAGE_SIZE_SETTINGS, *TEXT_TASKS] == list(MODEL_SETTINGS)


def test_naming_one_model_changes_no_other() -> None:
    config = load_config({"model": "open_clip:ViT-B-32"}, environment={})
    given, left = ModelSource("open_clip:ViT-B-32"), ModelSource("mplug-mini")
    assert config.sources == {"retrieval": given, "rerank": left, "caption": left, "vqa": left, **WRITER}


def test_a_model_that_is_named_empty_is_left_out(tmp_path: Path) -> None:
    file = write(tmp_path, "caption_model:\nrerank_model: ''\n")
    environment = {"MPLUG_MODEL": "", "MPLUG_TEXT_MODEL": ""}
    config = load_config({"vqa_model": ""}, file=file, environment=environment)
    assert config.sources == {}
    assert (config.caption_model, config.rerank_model) == ("", "")


@pytest.mark.parametrize(
    ("services", "tasks"),
    [
        ("index,model", set()),
        ("embedding", {"retrieval"}),
        ("search", {"retrieval", "rerank", "caption"}),
        ("vqa,index", {"vqa"}),
    ],
)
def test_only_the_models_of_selected_services_are_loaded(services: str, tasks: set[str]) -> None:
    assert set(load_config({"services": services}, environment={}).sources) == tasks


def test_models_of_texts_are_those_that_are_given() -> None:
    environment = {"MPLUG_TEXT_MODEL": "poems", "MPLUG_CLASSIFY_MODEL": "nli", "MPLUG_IMAGE_SIZE": "256"}
    config = load_config({"services": "text"}, environment=environment)
    assert config.sources == {
        "text-generation": ModelSource("poems"),
        "text-classification": ModelSource("nli"),
    }


def test_variables_of_clients_are_not_settings() -> None:
    environment = {"MPLUG_ADDRESS": "host:1", "MPLUG_CACHE": "y", "MPLUG_CONFIG": "x", "MPLUG_TEST_SLOW": "1"}
    assert load_config(environment=environment) == ServeConfig()


@pytest.mark.parametrize(
    ("flags", "environment", "text", "message"),
    [
        ({}, {}, "prot: 1\nqueue: 2\n", "unknown settings: prot, queue; known are host"),
        ({"nonsense": 1}, {}, "", "unknown settings: nonsense"),
        ({}, {"MPLUG_PROT": "1"}, "", "unknown settings: prot"),
        ({}, {"MPLUG_PORT": "many"}, "", "port is 'many'; it must be a int"),
        ({"port": 70000}, {}, "", "port is 70000; ports end at 65535"),
        ({"port": True}, {}, "", "port is True"),
        ({"port": 1.5}, {}, "", "port is 1.5; it must be a whole number"),
        ({"queue_size": 0}, {}, "", "queue_size is 0; it must be at least 1"),
        ({"vqa_image_size": -16}, {}, "", "vqa_image_size is -16; it must be at least 0"),
        ({"caption_image_size": "big"}, {}, "", "caption_image_size is 'big'; it must be a int"),
        ({"queue_size": 100}, {}, "", r"max_batch_size is 256; a batch must fit into queue_size \(100\)"),
        ({"services": "embedding,cooking"}, {}, "", "services is 'cooking'; known are"),
        ({"services": ()}, {}, "", "name at least one of"),
        ({"services": 5}, {}, "", "services is 5; give a list"),
        ({"keep_images": "all"}, {}, "", "keep_images is 'all'"),
        ({"reflection": "perhaps"}, {}, "", "reflection is 'perhaps'; write true or false"),
        ({"grace_seconds": -1}, {}, "", "grace_seconds is -1.0"),
        ({"tls_key": "k.pem"}, {}, "", "tls_certificate and tls_key go together"),
        ({"tls_client_ca": "ca.pem"}, {}, "", "only where tls_certificate is set"),
        ({}, {}, "- a\n- b\n", "must be a mapping"),
        ({}, {}, "a: [1", "cannot be read"),
    ],
)
def test_what_cannot_be_is_named(
    flags: dict[str, object], environment: dict[str, str], text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_config(flags, file=write(tmp_path, text), environment=environment)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.yaml cannot be read"):
        load_config(file=tmp_path / "none.yaml", environment={})


def test_every_setting_is_described() -> None:
    described = ServeConfig(services=("index",), image_root=None).describe()
    assert list(described) == [each.name for each in dataclasses.fields(ServeConfig)]
    assert (described["services"], described["image_root"], described["port"]) == ("index", "", "50051")


def test_the_described_settings_load_again() -> None:
    config = ServeConfig(port=1, services=("search",), image_root=Path("x"), reflection=False)
    assert load_config(config.describe(), environment={}) == config
