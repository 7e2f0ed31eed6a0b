"""Writes coca/: what open_clip's own `generate` makes of a tiny CoCa.

Its beam search needs a transformers that still has BeamSearchScorer at the top (4.56 moved it), in an environment that
has torch, open_clip 3.3.0 and this project's tests:

    pip install transformers==4.55.4
    PYTHONPATH=tests python -m golden.coca_goldens
"""

from __future__ import annotations

import copy
import importlib.metadata
import json
import tempfile
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

from golden.coca_cases import BOS, EOS, FOLDER, NAME, add_bonus, random_weights, register

BEAMS: dict[str, dict[str, Any]] = {
    "default": {},
    "beams4_groups2": {"num_beams": 4, "num_beam_groups": 2},
    "beams3_groups1": {"num_beams": 3, "num_beam_groups": 1},
    "beams8_groups2": {"num_beams": 8, "num_beam_groups": 2},
    "short": {"seq_len": 7, "min_seq_len": 2},
    "no_min": {"min_seq_len": 0, "seq_len": 20},
    "late": {"min_seq_len": 20, "seq_len": 26, "num_beams": 4, "num_beam_groups": 1},
    "repetition": {"repetition_penalty": 1.4},
}
BONUSES: dict[str, dict[str, float]] = {"": {}, "_early": {"eos": 7.0}, "_padding": {"pad": 9.0, "eos": 3.0}}
GREEDY: dict[str, dict[str, Any]] = {
    "greedy": {"generation_type": "top_k", "top_k": 1},
    "greedy_prompt": {"generation_type": "top_k", "top_k": 1, "text": [BOS, 513, 518], "seq_len": 16},
}
PICTURES = 4


def cut(row: list[int]) -> list[int]:
    """Up to the end, without what pads a batch."""
    return row[: row.index(EOS) + 1] if EOS in row else row


@torch.no_grad()
def generate(clip: Any, image: torch.Tensor, options: dict[str, Any]) -> list[list[int]]:
    options = dict(options)
    if "text" in options:
        options["text"] = torch.tensor([options["text"]] * len(image))
    rows: list[list[int]] = clip.generate(image, sot_token_id=BOS, eos_token_id=EOS, **options).tolist()
    return [cut(row) for row in rows]


@torch.no_grad()
def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        register(Path(folder))
        clip: Any = open_clip.create_model(NAME).eval()
    random_weights(clip)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (PICTURES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    ids = torch.randint(1, BOS, (PICTURES, 12), generator=generator)
    ids[:, 0], ids[0, 3], ids[1, 5:7], ids[2, 1] = BOS, 0, 0, 0
    settings = open_clip.get_model_preprocess_cfg(clip)
    mean, std = (torch.tensor(settings[name])[:, None, None] for name in ("mean", "std"))
    image = (pixels.float() / 255 - mean) / std
    tensors = {f"weights/{name}": tensor.half() for name, tensor in clip.state_dict().items()}
    tensors |= {"inputs/pixels": pixels, "inputs/ids": ids}
    tensors["features/image"], tensors["features/text"] = clip.encode_image(image), clip.encode_text(ids)
    for kind in ("legacy", "correct"):
        clip.text.correct_cls_mask = kind == "correct"
        tensors[f"logits/{kind}"] = clip(image, ids, output_labels=False)["logits"]
    clip.text.correct_cls_mask = False
    cases = []
    for suffix, bonus in BONUSES.items():
        biased = copy.deepcopy(clip)
        add_bonus(biased.text_decoder, bonus)
        for name, options in {**BEAMS, **({} if suffix == "_padding" else GREEDY)}.items():
            found = generate(biased, image, options)
            cases.append({"name": name + suffix, "options": options, "bonus": bonus, "ids": found})
    packages = ("open_clip_torch", "transformers", "torch")
    versions = {package: importlib.metadata.version(package) for package in packages}
    FOLDER.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, FOLDER / "tiny.safetensors")
    lines = ",\n".join(json.dumps(case) for case in cases)
    (FOLDER / "tiny.json").write_text(f'{{"versions": {json.dumps(versions)}, "cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
