"""Draws the gallery that `mplug demo` searches: drawings, composed scenes and a few photos.

Run `pip install -e '.[server,gallery]'`, then `python examples/gallery/make_gallery.py`. The drawings
and their keywords come from npm packages, fetched with `npm pack` into a temporary folder; the photos
lie inside scikit-image and scikit-learn. What is drawn stands in things.tsv, scenes.tsv and
photos.tsv, the styles in styles.tsv. The same packages give the same files.
"""

import argparse
import csv
import io
import json
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import resvg_py
from PIL import Image

HERE = Path(__file__).resolve().parent
DRAWING_SIZE = 160
SCENE_SIZE = 224
PHOTO_SIZE = 320
WEBP_QUALITY = 86

# The grounds of scenes: colour, its name in English and in Chinese.
GROUNDS = {
    "brown": ("#c9a27e", "brown", "棕色"),
    "gray": ("#d3d6da", "gray", "灰色"),
    "green": ("#b9e0ae", "green", "绿色"),
    "navy": ("#24365f", "dark blue", "深蓝色"),
    "orange": ("#fbd2a0", "orange", "橙色"),
    "pink": ("#f9cfdc", "pink", "粉色"),
    "purple": ("#d6c8ee", "purple", "紫色"),
    "red": ("#e98a83", "red", "红色"),
    "sand": ("#ecdcae", "sand-coloured", "沙色"),
    "sky": ("#bfe3f7", "sky blue", "天蓝色"),
    "yellow": ("#f7eaa2", "yellow", "黄色"),
}
# Where the drawings of a scene lie: (centre x, centre y, side), each as a share of the picture's side.
Places = tuple[tuple[float, float, float], ...]
PLACES: Mapping[str, Places] = {
    "left": ((0.27, 0.55, 0.42), (0.73, 0.55, 0.42)),
    "above": ((0.5, 0.25, 0.40), (0.5, 0.73, 0.46)),
    "below": ((0.5, 0.75, 0.40), (0.5, 0.27, 0.46)),
    "bigger": ((0.37, 0.46, 0.62), (0.83, 0.74, 0.24)),
    "count2": ((0.28, 0.5, 0.40), (0.72, 0.5, 0.40)),
    "count3": ((0.27, 0.31, 0.36), (0.73, 0.31, 0.36), (0.5, 0.71, 0.36)),
    "count4": ((0.27, 0.29, 0.34), (0.73, 0.29, 0.34), (0.27, 0.72, 0.34), (0.73, 0.72, 0.34)),
}
RELATIONS = {
    "left": ("to the left of", "左边"),
    "above": ("above", "上方"),
    "below": ("below", "下方"),
}
COUNTS = {"count2": ("two", "两"), "count3": ("three", "三"), "count4": ("four", "四")}
PLURALS = {"strawberry": "strawberries", "tropical fish": "tropical fish"}


WORDS_PACKAGE = "emojibase-data"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of gallery.jsonl."""

    image: str
    label: str
    label_zh: str
    tags: list[str]
    kind: str
    style: str
    licence: str
    source: str


class Package:
    """An npm package, unpacked into a folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.path = folder / name.replace("/", "-")
        self.path.mkdir()
        subprocess.run(
            ["npm", "pack", "--silent", name], cwd=self.path, check=True, stdout=subprocess.DEVNULL
        )
        (archive,) = self.path.glob("*.tgz")
        with tarfile.open(archive) as tar:
            tar.extractall(self.path, filter="data")
        self.version = re.sub(r"^.*-(\d+\.\d+\.\d+)\.tgz$", r"\1", archive.name)

    def text(self, path: str) -> str:
        """The text of a file of the package."""
        return (self.path / "package" / path).read_text(encoding="utf-8")


class Drawings:
    """The drawings of one style, by the code point of their emoji."""

    def __init__(self, style: Mapping[str, str], folder: Path) -> None:
        package = Package(style["package"], folder)
        self.style = style["style"]
        self.licence = style["licence"]
        self.source = f"npm {package.name} {package.version}"
        self._names: dict[str, str] = json.loads(package.text("chars.json"))
        icons = json.loads(package.text("icons.json"))
        self._bodies: dict[str, str] = {name: icon["body"] for name, icon in icons["icons"].items()}
        self._aliases: dict[str, str] = {name: alias["parent"] for name, alias in icons["aliases"].items()}
        self._box = (icons.get("width", 16), icons.get("height", 16))

    def draw(self, emoji: str, size: int) -> Image.Image:
        """Renders a drawing as RGBA, size × size pixels, on a transparent ground."""
        code = emoji.lower()
        name = self._names.get(code) or self._names[code.replace("-fe0f", "")]
        body = self._bodies[self._aliases.get(name, name)]
        width, height = self._box
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {width} {height}">{body}</svg>'
        )
        png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size)
        return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def rows(name: str) -> list[dict[str, str]]:
    """The lines of a table beside this script."""
    with (HERE / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", restval=""))


def keywords(words: Package) -> dict[str, list[str]]:
    """English keywords by code point, as emojibase gives them."""
    return {emoji["hexcode"]: emoji.get("tags", []) for emoji in json.loads(words.text("en/data.json"))}


def slug(text: str) -> str:
    """A file name from a label."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def save_webp(image: Image.Image, path: Path) -> None:
    """Writes a drawing; method 6 is libwebp's slowest and smallest."""
    image.save(path, "WEBP", quality=WEBP_QUALITY, method=6)


def make_drawings(
    out: Path, styles: Mapping[str, Drawings], tags: Mapping[str, list[str]]
) -> Iterator[Entry]:
    """One picture for each thing and style, on white."""
    for row in rows("things.tsv"):
        for name in row["styles"].split():
            image = Image.new("RGB", (DRAWING_SIZE, DRAWING_SIZE), "white")
            margin = DRAWING_SIZE // 16
            drawing = styles[name].draw(row["emoji"], DRAWING_SIZE - 2 * margin)
            image.paste(drawing, (margin, margin), drawing)
            path = f"images/drawings/{slug(row['label'])}-{name.split('-')[0]}.webp"
            save_webp(image, out / path)
            words = [row["category"], *(tag for tag in tags[row["emoji"]] if tag != row["category"])]
            kind, style, source = "drawing", styles[name], styles[name].source
            yield Entry(path, row["label"], row["label_zh"], words, kind, name, style.licence, source)


def with_article(label: str) -> str:
    """A label with its English article, where one belongs before it."""
    if label in ("french fries", "planet Earth", "cheese"):
        return label
    if label == "sun":
        return "the sun"
    return f"{'an' if label[0].lower() in 'aeio' else 'a'} {label}"


def scene_labels(row: Mapping[str, str], chinese: Mapping[str, str]) -> tuple[str, str]:
    """What a scene shows, in English and in Chinese."""
    first, second, relation = row["first"], row["second"], row["relation"]
    _, colour, colour_zh = GROUNDS[row["ground"]]
    ground, ground_zh = f"on {with_article(colour)} background", f"{colour_zh}背景"
    if relation in COUNTS:
        number, number_zh = COUNTS[relation]
        return (
            f"{number} {PLURALS.get(first, first + 's')} {ground}",
            f"{ground_zh}上有{number_zh}{row['measure']}{chinese[first]}",
        )
    if relation == "bigger":
        return (
            f"a big {first} beside a small {second} {ground}",
            f"{ground_zh}上，大大的{chinese[first]}在小小的{chinese[second]}旁边",
        )
    words, words_zh = RELATIONS[relation]
    return (
        f"{with_article(first)} {words} {with_article(second)} {ground}",
        f"{ground_zh}上，{chinese[first]}在{chinese[second]}的{words_zh}",
    )


def compose(drawings: Drawings, emojis: Sequence[str], places: Places, ground: str) -> Image.Image:
    """Pastes drawings at their places on a coloured ground."""
    scene = Image.new("RGB", (SCENE_SIZE, SCENE_SIZE), ground)
    for emoji, (x, y, share) in zip(emojis, places, strict=True):
        side = round(share * SCENE_SIZE)
        drawing = drawings.draw(emoji, side)
        scene.paste(drawing, (round(x * SCENE_SIZE - side / 2), round(y * SCENE_SIZE - side / 2)), drawing)
    return scene


def make_scenes(out: Path, styles: Mapping[str, Drawings]) -> Iterator[Entry]:
    """Two things in a relation, or several of one, on a coloured ground."""
    things = {row["label"]: row for row in rows("things.tsv")}
    chinese = {label: row["label_zh"] for label, row in things.items()}
    for row in rows("scenes.tsv"):
        drawings = styles[row["style"]]
        places = PLACES[row["relation"]]
        labels = [row["first"], row["second"]] if row["second"] else [row["first"]] * len(places)
        emojis = [things[label]["emoji"] for label in labels]
        path = f"images/scenes/{slug(' '.join([row['first'], row['relation'], row['second']]))}.webp"
        save_webp(compose(drawings, emojis, places, GROUNDS[row["ground"]][0]), out / path)
        label, label_zh = scene_labels(row, chinese)
        tags = [*dict.fromkeys(labels), row["ground"]]
        source = f"composed from {drawings.source}"
        yield Entry(path, label, label_zh, tags, "scene", drawings.style, drawings.licence, source)


def photo_folder(package: str) -> Path:
    """Where an installed package keeps its pictures."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is not installed: pip install -e '.[gallery]'")
    return Path(spec.origin).parent / {"skimage": "data", "sklearn": "datasets/images"}[package]


def make_photos(out: Path) -> Iterator[Entry]:
    """The photos that packages carry and whose licences allow it, at most 320 px."""
    for row in rows("photos.tsv"):
        package, file = row["file"].split(":")
        with Image.open(photo_folder(package) / file) as photo:
            image = photo.convert("RGB")
        image.thumbnail((PHOTO_SIZE, PHOTO_SIZE), Image.Resampling.LANCZOS)
        path = f"images/photos/{file.split('.')[0].replace('_', '-')}.jpg"
        image.save(out / path, "JPEG", quality=86, optimize=True)
        source = (
            f"{'scikit-image' if package == 'skimage' else 'scikit-learn'}, by {row['author']}, {row['link']}"
        )
        tags = row["tags"].split(", ")
        yield Entry(path, row["label"], row["label_zh"], tags, "photo", "photo", row["licence"], source)


def credits_text(styles: Mapping[str, Drawings], words: Package) -> str:
    """CREDITS.md: every source with its licence, author and link."""
    lines = [(HERE / "credits_head.md").read_text(encoding="utf-8")]
    lines.append("## Drawings and scenes\n")
    lines.append("| style | name | source | author | licence | link |\n|---|---|---|---|---|---|")
    for row in rows("styles.tsv"):
        cells = (
            row["style"],
            row["name"],
            styles[row["style"]].source,
            row["author"],
            row["licence"],
            row["link"],
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(f"\nKeywords: npm {words.name} {words.version}, MIT, Copyright (c) 2017-2019 Miles Johnson.")
    lines.append("\n## Photos\n\n| picture | author | licence | link |\n|---|---|---|---|")
    for row in rows("photos.tsv"):
        package, file = row["file"].split(":")
        title = f"{file} ({'scikit-image' if package == 'skimage' else 'scikit-learn'})"
        lines.append(f"| {title} | {row['author']} | {row['licence']} | {row['link']} |")
    return "\n".join(lines) + "\n"


def make_gallery(out: Path) -> int:
    """Writes images/, gallery.jsonl and CREDITS.md into a folder; returns how many pictures there are."""
    shutil.rmtree(out / "images", ignore_errors=True)
    for kind in ("drawings", "scenes", "photos"):
        (out / "images" / kind).mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        styles = {row["style"]: Drawings(row, Path(folder)) for row in rows("styles.tsv")}
        words = Package(WORDS_PACKAGE, Path(folder))
        entries = [*make_drawings(out, styles, keywords(words)), *make_scenes(out, styles), *make_photos(out)]
        (out / "CREDITS.md").write_text(credits_text(styles, words), encoding="utf-8")
    lines = [json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in entries]
    (out / "gallery.jsonl").write_text("".join(lines), encoding="utf-8")
    return len(entries)


def main() -> None:
    """Draws the gallery in place, or in the folder given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write into (default: this one)")
    output: Path = parser.parse_args().output
    count = make_gallery(output)
    size = sum(path.stat().st_size for path in (output / "images").rglob("*.*"))
    print(f"{count} pictures, {size / 2**20:.1f} MiB, in {output}")


if __name__ == "__main__":
    main()
