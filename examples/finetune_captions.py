"""Fine-tune a captioner on your pictures, keep the best checkpoint, and judge it on those it was chosen by.

Run: python examples/finetune_captions.py ROWS.jsonl FOLDER OUTPUT [SETTING=VALUE ...]
"""

import json
import sys
from pathlib import Path

import mplug
from mplug import train
from mplug.evaluation import captions


def main(rows: str, start: str, output: str, *settings: str) -> None:
    """Trains, writes a caption of every picture of the split `dev`, and prints how good they are."""
    best = train.run("finetune-captioning", [f"start={start}", *settings], data=rows, output=output)
    pipeline = mplug.pipeline("image-captioning", best)
    read = [json.loads(line) for line in Path(rows).read_text(encoding="utf-8").splitlines()]
    people = {row["image"]: row["captions"] for row in read if row["split"] == "dev"}
    written = {name: pipeline(Path(rows).parent / name)["caption"] for name in people}
    print(captions.score(written, people, java=False).metrics())


if __name__ == "__main__":
    main(*sys.argv[1:])
