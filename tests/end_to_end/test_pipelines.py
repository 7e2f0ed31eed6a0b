"""`mplug.pipeline` from golden folders here, and the same call at the address of a real server of the same folders."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mplug
from golden.mplug_cases import read_case
from mplug.errors import ConfigError, ImageError, MplugError
from mplug.images import decode_image
from mplug.pipelines import image_bytes
from mplug.preprocess import to_pixels
from mplug.remote_models import is_address
from mplug_services.cli import main
from mplug_services.cli.server_process import ServerProcess

FOLDERS = {
    "image-captioning": "caption_large",
    "visual-question-answering": "vqa_base",
    "image-text-retrieval": "retrieval_large",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipelines")
    for case in FOLDERS.values():
        read_case(case).write_modelscope(folder / case)
    for seed in range(3):
        picture(seed).save(folder / f"{seed}.png")
    return folder


def picture(seed: int) -> Image.Image:
    patches = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(patches).resize((48, 40), Image.Resampling.NEAREST)


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    arguments = ["--services", "caption,vqa,rerank"]
    for name, case in (("caption", "caption_large"), ("vqa", "vqa_base"), ("rerank", "retrieval_large")):
        arguments += [f"--{name}-model", str(folder / case)]
    with ServerProcess(folder / "data", arguments) as server:
        yield server.address


def inputs(task: str, folder: Path) -> list[Any]:
    """Every form that a task takes; the pictures behind them are three."""
    texts = ["piece9 Piece10 piece11", "piece20", "piece30 piece31 " * 30]
    paths = [folder / f"{seed}.png" for seed in range(3)]
    if task == "image-captioning":
        return [
            str(paths[0]),
            picture(1),
            paths[2].read_bytes(),
            (picture(0), "left aside"),
            {"image": paths[1]},
        ]
    return [
        (str(paths[0]), texts[0]),
        {"image": picture(1), "text": texts[1]},
        {"image": paths[2], "question": texts[2]},
        (paths[0].read_bytes(), texts[1]),
    ]


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("task", FOLDERS)
def test_here_and_there_answer_alike(task: str, folder: Path, address: str) -> None:
    items = inputs(task, folder)
    with mplug.pipeline(task, folder / FOLDERS[task]) as here, mplug.pipeline(task, address) as there:
        expected, found = here(items), there(items)
        assert there(items, batch_size=3) == found
        assert there(items[0]) == found[0]
        if task == "image-text-retrieval":
            for one, other in zip(expected, found, strict=True):
                np.testing.assert_allclose(
                    one["scores"], other["scores"], atol=1e-3
                )  # tokens are kept as fp16
        else:
            assert found == expected
        for pipeline in (here, there):
            with pytest.raises(ValueError, match="not an image"):
                pipeline((b"not an image", "piece9"))


@pytest.mark.long
@pytest.mark.timeout(240)
def test_settings_are_the_same_here_and_there(folder: Path, address: str) -> None:
    changes: list[dict[str, Any]] = [
        {"seed": 5, "top_k": 20},
        {"num_results": 2, "min_length": 3},
        {"method": "greedy", "max_length": 5},
    ]
    for settings in changes:
        sources = (folder / "caption_large", address)
        one, other = (
            mplug.pipeline("image-captioning", source, **settings)(picture(0)) for source in sources
        )
        assert one == other, settings


@pytest.mark.long
@pytest.mark.timeout(240)
def test_the_command_line_gives_the_ids_of_the_model(
    folder: Path, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(folder / f"{seed}.png") for seed in range(3)]
    model = mplug.load(folder / "caption_large", task="caption")
    pixels = [to_pixels(decode_image(Path(file).read_bytes()), model.preprocess.image_size) for file in files]
    expected = [list(one.hypothesis.ids) for (one,) in model.caption(torch.from_numpy(np.stack(pixels)))]
    for source in (["--model", str(folder / "caption_large")], ["--address", address]):
        output = tmp_path / f"{len(source[1])}.jsonl"
        assert main(["caption", *files, "--output", str(output), *source]) == 0
        assert [json.loads(line)["token_ids"] for line in output.read_text().splitlines()] == expected
    capsys.readouterr()
    answers = []
    for source in (["--model", str(folder / "vqa_base")], ["--address", address]):
        for more in ([], ["--answers", "piece7", "piece8 piece9", "piece30"]):
            assert main(["ask", files[0], "piece9 piece10", "--json", *more, *source]) == 0
            facts = json.loads(capsys.readouterr().out)
            answers.append(facts["answer"])
            assert "token_ids" in str(facts) or len(facts["ranked"]) == 3
    assert answers[:2] == answers[2:]


def test_answers_are_what_modelscope_s_are(folder: Path) -> None:
    caption = mplug.pipeline("image-captioning", folder / "caption_large")(str(folder / "0.png"))
    assert list(caption) == ["caption"]
    assert caption["caption"].startswith("piece")
    answer = mplug.pipeline("visual-question-answering", str(folder / "vqa_base"))((picture(0), "piece9"))
    assert list(answer) == ["text"]
    (scores,) = mplug.pipeline("image-text-retrieval", folder / "retrieval_large")((picture(0), "piece9"))[
        "scores"
    ]
    assert sum(scores) == pytest.approx(1)
    model = mplug.load(folder / "retrieval_large", task="rerank")
    ids = torch.from_numpy(model.tokenizer.encode("piece9").ids)[None]
    pixels = torch.from_numpy(to_pixels(picture(0), model.preprocess.image_size))[None]
    with torch.no_grad():
        expected = model.itm_scores(model.encode_image(pixels), ids, torch.ones_like(ids, dtype=torch.bool))
    assert scores[1] == pytest.approx(float(expected), abs=1e-5)


def test_a_question_alone_or_among_others_has_one_answer(folder: Path) -> None:
    pipeline = mplug.pipeline("visual-question-answering", folder / "vqa_base", deterministic=True)
    items = inputs("visual-question-answering", folder)
    assert pipeline(items, batch_size=4) == [pipeline(item) for item in items]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ((b"", "piece9"), "0 bytes"),
        ((b"?", "piece9"), "not an image"),
        ("{folder}/0.png", "takes a picture and a text"),
        (("{folder}/0.png", ""), "the text is empty"),
        (("{folder}/0.png", "piece9", "more"), "this one has 3 parts"),
        ({"text": "piece9"}, "'image' and 'text'"),
        ((3, "piece9"), "not int"),
        (("https://example.org/cat.jpg", "piece9"), "not fetched"),
    ],
)
def test_a_wrong_input_is_named(item: Any, message: str, folder: Path) -> None:
    pipeline = mplug.pipeline("visual-question-answering", folder / "vqa_base")
    if isinstance(item, tuple):
        item = tuple(part.format(folder=folder) if isinstance(part, str) else part for part in item)
    elif isinstance(item, str):
        item = item.format(folder=folder)
    with pytest.raises(MplugError, match=message):
        pipeline(item)


def test_wrong_settings_are_named(folder: Path) -> None:
    with pytest.raises(MplugError, match="pipelines are image-captioning"):
        mplug.pipeline("image-dancing", folder)
    with pytest.raises(MplugError, match=r"several methods together \(beam, sample\)"):
        mplug.pipeline("image-captioning", folder / "caption_large", beam_size=3, seed=1)
    for source in (folder / "caption_large", "localhost:1"):
        with pytest.raises(ConfigError, match="unknown among beams"):
            mplug.pipeline("image-captioning", source, beams=3)
    with pytest.raises(MplugError, match="takes no settings"):
        mplug.pipeline("image-text-retrieval", folder / "retrieval_large", beam_size=3)


def test_a_bad_picture_harms_no_neighbour(folder: Path) -> None:
    from mplug.pipelines import Input, make_runner

    runner = make_runner("image-captioning", folder / "caption_large")
    good = image_bytes(picture(0))
    (alone,) = runner.run([Input(good)])
    outcomes = runner.run([Input(b"?"), Input(good), Input(good, "piece9 " * 40)])
    assert isinstance(outcomes[0].error, ImageError)
    assert outcomes[1] == alone
    assert "prompt is longer" in str(outcomes[2].error)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_pictures_in_memory_are_kept_as_they_are(mode: str, tmp_path: Path) -> None:
    base = picture(4)
    image = Image.fromarray(np.full((40, 48), 300, np.uint16)) if mode == "I;16" else base.convert(mode)
    decoded = decode_image(image_bytes(image))
    assert decoded.size == base.size
    if mode in ("RGB", "RGBA"):
        assert np.array_equal(np.asarray(decoded), np.asarray(base))


def test_a_picture_in_memory_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(5).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    with Image.open(tmp_path / "turned.jpg") as image:
        assert decode_image(image_bytes(image)).size == (40, 48)
    assert decode_image(image_bytes(tmp_path / "turned.jpg")).size == (40, 48)


def test_addresses_are_told_from_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("localhost:50051", "10.0.0.1:1", "[::1]:50051", "my-host.example:443"):
        assert is_address(address)
    for other in ("localhost", "open_clip:ViT-B-32", "a/b:1", "mplug-mini", "/models/a", "host:port"):
        assert not is_address(other)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd:1").mkdir()
    assert not is_address("odd:1")


def test_an_address_needs_neither_torch_nor_pillow() -> None:
    script = (
        "import sys, mplug; mplug.pipeline('image-captioning', 'localhost:1').close(); "
        "assert not {'torch', 'PIL', 'timm', 'tokenizers'} & set(sys.modules), 'too much'"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
