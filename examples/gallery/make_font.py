"""Cuts the font of the command line's sheets down to the characters that they can show.

Pillow brings no Chinese glyphs. Run `pip install -e '.[server,gallery]'`, then
`python examples/gallery/make_font.py` after the gallery, the demo's queries or mplug-mini's vocabulary have
changed: what that model writes is made of the characters of its vocabulary. The font is
Noto Sans SC (SIL Open Font License 1.1), taken from a PyPI package with `pip download`.
"""

import json
import string
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from fontTools import subset

HERE = Path(__file__).resolve().parent
CLI = HERE.parents[1] / "services" / "mplug_services" / "cli"
VOCABULARY = HERE.parents[1] / "mplug" / "mplug" / "weights" / "mplug-mini" / "vocab.txt"
PACKAGE = "pylopdf-fonts-zh-cn==0.1.1"
FONT = "pylopdf_fonts_zh_cn/NotoSansSC-Regular.otf"
LICENCE = "pylopdf_fonts_zh_cn-0.1.1.dist-info/licenses/LICENSE"


def characters() -> str:
    """Every character of the labels, of the demo's own texts, and of the model's vocabulary."""
    lines = (HERE / "gallery.jsonl").read_text(encoding="utf-8").splitlines()
    labels = [text for line in lines for text in (json.loads(line)["label"], json.loads(line)["label_zh"])]
    sources = [path.read_text(encoding="utf-8") for path in [*sorted(CLI.glob("demo*.py")), VOCABULARY]]
    shown = string.printable + "·–—…×“”‘’，。、：；！？（）" + "".join(labels) + "".join(sources)
    return "".join(sorted(set(shown) - set(string.whitespace) | {" "}))


def download(folder: Path) -> zipfile.ZipFile:
    """Fetches the package that holds the whole font."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(folder),
        PACKAGE,
    ]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel)


def main() -> None:
    """Writes the cut font and its licence beside the command-line interface."""
    target = CLI / "fonts"
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        wheel = download(Path(folder))
        whole = Path(wheel.extract(FONT, folder))
        options = subset.Options(
            desubroutinize=False,
            hinting=False,
            layout_features=["kern"],
            name_IDs=[0, 1, 2, 3, 4, 5, 6, 13, 14],
        )
        font = subset.load_font(str(whole), options)
        licence = f"{font['name'].getDebugName(0)}\n\n{wheel.read(LICENCE).decode()}"
        (target / "OFL.txt").write_text(licence, encoding="utf-8")
        subsetter = subset.Subsetter(options)
        subsetter.populate(text=characters())
        subsetter.subset(font)
        path = target / "NotoSansSC-subset.otf"
        subset.save_font(font, str(path), options)
    print(f"{path.name}: {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
