from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import mplug


def test_exported_names() -> None:
    assert mplug.__all__ == [
        "CaptionModel",
        "Captioner",
        "CheckpointError",
        "ConfigError",
        "ContrastiveModel",
        "FusionEncoderConfig",
        "GenerationConfig",
        "ImageEncoderConfig",
        "ImageError",
        "ImageLimits",
        "MaskFiller",
        "MplugConfig",
        "MplugError",
        "PreprocessConfig",
        "Question",
        "QuestionAnswerer",
        "RerankModel",
        "RetrievalModel",
        "TextClassifier",
        "TextDecoderConfig",
        "TextEncoderConfig",
        "TextGenerator",
        "TokenClassifier",
        "VqaModel",
        "ZeroShotClassifier",
        "__version__",
        "decode_image",
        "few_shot",
        "freeze",
        "load",
        "pipeline",
        "prompt",
        "to_pixels",
        "write",
    ]
    for name in mplug.__all__:
        assert getattr(mplug, name) is not None
    assert dir(mplug) == sorted(mplug.__all__)


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        mplug.nonsense  # noqa: B018


@pytest.mark.parametrize(
    "statement",
    [
        "import mplug",
        "import mplug; mplug.decode_image; mplug.to_pixels; mplug.ImageLimits; mplug.MplugError",
        "import mplug.text.tokenizer",
        "import mplug.config",
        "import mplug.decoder_facts",
        "import mplug; mplug.pipeline; mplug.prompt; mplug.few_shot; mplug.Question; mplug.TextClassifier",
        "import mplug.text_pipelines, mplug.text_inputs, mplug.text_tasks, mplug.remote_models",
    ],
)
def test_no_torch(statement: str) -> None:
    code = f"{statement}\nimport sys\nassert not {{'torch', 'timm', 'open_clip'}} & set(sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30
    )
    assert run.returncode == 0, run.stderr


def test_pipelines_at_addresses_need_no_tokenizers() -> None:
    code = "import mplug.text_pipelines\nimport sys\nassert not {'torch', 'tokenizers'} & set(sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30
    )
    assert run.returncode == 0, run.stderr


def test_no_module_hides_behind_a_public_name() -> None:
    # Importing a submodule sets it as an attribute of its package: mplug.load must stay a function.
    package = Path(mplug.__file__).parent
    modules = {path.stem for path in package.glob("*.py")} | {
        path.name for path in package.iterdir() if path.is_dir()
    }
    assert modules & set(mplug.__all__) == set()
