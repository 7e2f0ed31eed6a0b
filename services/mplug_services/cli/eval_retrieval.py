"""Measure how well a model finds pictures by captions and captions by pictures.

FOLDER holds captions.jsonl, a JSON object a line with "image" (a path inside FOLDER), "captions" and perhaps
"captions_zh", and the pictures. Which split a picture is in follows from "split" and from its name, as in training.

Every caption of the split is searched for among its pictures, and the other way round; a picture that bears the
identical caption is right as well. R@n is the share of queries, in percent, with something right among the first n.
Three orders, as of a server's search:
  ITC   by the cosine
  ITM   the first K candidates by match probability, the rest by the cosine
  both  the first K by both, the rest by the cosine (--fusion)
A model that holds no fusion encoder is measured by ITC alone. With --split val, drawings of styles that were never
trained on are searched by their English label too, where there are some: the same thing drawn is right.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from mplug.errors import MplugError
from mplug.evaluation.recall import Recall
from mplug.score_fusion import Order, ScoreFusion
from mplug_services.cli.common import EXIT_OK, CliError, UsageError, messages, progress_bar, results
from mplug_services.cli.eval_data import add_data_arguments, check_arguments, chosen

if TYPE_CHECKING:
    from torch import Tensor

    from mplug.contrastive import ContrastiveModel
    from mplug.reranking import RerankModel
    from mplug.train.data import CaptionedImage

Rows = Mapping[str, Mapping[Order, Recall]]

DEFAULT_RERANK = 32
_BATCH = 32
_NAMES = {Order.ITC: "ITC", Order.ITM: "ITM", Order.BOTH: "both"}
_DRAWINGS = "unseen drawings by English label"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the evaluation's arguments."""
    add_data_arguments(parser)
    parser.add_argument(
        "--model",
        default="mplug-mini",
        metavar="MODEL",
        help="mplug-mini (the default), a checkpoint folder, or open_clip:NAME",
    )
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--dtype", default="float32", help="default: %(default)s")
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="side in pixels (default: the checkpoint's)"
    )
    parser.add_argument(
        "--rerank-k",
        type=int,
        metavar="K",
        help=f"candidates of each query that are matched (default: {DEFAULT_RERANK} if the model can; 0: none)",
    )
    parser.add_argument(
        "--fusion",
        choices=[str(ScoreFusion.SUM), str(ScoreFusion.RECIPROCAL_RANK)],
        default=str(ScoreFusion.SUM),
        help='what "both" is (default: %(default)s)',
    )


def run(options: argparse.Namespace) -> int:
    """Runs the evaluation."""
    check_arguments(options)
    if options.rerank_k is not None and options.rerank_k < 0:
        raise UsageError(f"--rerank-k takes a number of candidates from 0 on, not {options.rerank_k}")
    images, drawings = _read(options)
    try:
        model, matcher = _load(options)
        rows = evaluate_retrieval(model, matcher, images, drawings, options)
    except (MplugError, OSError) as error:
        raise CliError(str(error)) from error
    if options.json:
        facts = {name: {str(k): _facts(v) for k, v in orders.items()} for name, orders in rows.items()}
        matched = (options.rerank_k or DEFAULT_RERANK) if matcher is not None else 0
        head = {"model": model.name, "split": options.split, "pictures": len(images), "rerank_k": matched}
        print(json.dumps({**head, "rows": facts}, ensure_ascii=False))
    else:
        _print(f"{len(images)} pictures of {options.split}, by {model.name}", rows)
    return EXIT_OK


def evaluate_retrieval(
    model: "ContrastiveModel",
    matcher: "RerankModel | None",
    images: "Sequence[CaptionedImage]",
    drawings: "Sequence[CaptionedImage]",
    options: argparse.Namespace,
) -> Rows:
    """Embeds, matches and ranks, with progress bars; the rows of the table.

    Raises:
        MplugError: a picture cannot be decoded.
        OSError: a picture cannot be read.
    """
    from mplug.itm_scoring import ItmScorer
    from mplug.train.evaluate import Matching, drawings_by_label, evaluate_orders, text_embedder

    embed = text_embedder(model)
    with progress_bar(messages()) as progress:
        bar = progress.add_task("pictures", total=len(images) + len(drawings))
        advance: Callable[[int], None] = lambda count: progress.advance(bar, count)  # noqa: E731
        embeds, tokens = embed_pictures(model, matcher, options.data, images, advance)
        matching = None
        if matcher is not None:
            texts = progress.add_task(
                "matching", total=sum(len(each.captions) + len(each.captions_zh) for each in images)
            )
            matching = Matching(
                scorer=ItmScorer(matcher),
                image_tokens=tokens,
                top_k=options.rerank_k or DEFAULT_RERANK,
                fusion=ScoreFusion(options.fusion),
                on_text=lambda: progress.advance(texts),
            )
        tokenizer = (matcher or model).tokenizer
        rows = evaluate_orders(images, embeds, embed, tokenizer.encode_batch, matching)
        if drawings:
            drawn, _ = embed_pictures(model, None, options.data, drawings, advance)
            rows[_DRAWINGS] = {Order.ITC: drawings_by_label(drawings, drawn, embed)}
    return rows


def embed_pictures(
    model: "ContrastiveModel",
    matcher: "RerankModel | None",
    data: Path,
    images: "Sequence[CaptionedImage]",
    advance: Callable[[int], None],
) -> "tuple[Tensor, list[Tensor]]":
    """Vectors of all pictures, float32 (pictures, E), and their image_tokens where they will be matched."""
    import torch

    from mplug.retrieval import RetrievalModel
    from mplug.train.evaluate import picture_pixels

    embeds, tokens = [], []
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        pixels = picture_pixels(data, batch, model.preprocess.image_size).to(model.device)
        with torch.inference_mode():
            if matcher is None:
                embeds.append(model.embed_images(pixels).float().cpu())
            else:
                image_BND = matcher.encode_image(pixels)
                tokens += list(image_BND)
                # The same encoder: the tower need not run twice.
                assert isinstance(model, RetrievalModel)
                embeds.append(model.project_image(image_BND).float().cpu())
        advance(len(batch))
    return torch.cat(embeds), tokens


def _load(options: argparse.Namespace) -> "tuple[ContrastiveModel, RerankModel | None]":
    from mplug.freezing import freeze
    from mplug.loading import load
    from mplug.retrieval import RetrievalModel

    settings = {"device": options.device, "dtype": options.dtype, "image_size": options.image_size}
    model = freeze(load(options.model, **settings))
    can_match = isinstance(model, RetrievalModel) and model.config.fusion_encoder is not None
    if options.rerank_k and not can_match:
        raise CliError(f"--rerank-k {options.rerank_k}: {model.name} has no fusion encoder to match with")
    if options.rerank_k == 0 or not can_match:
        return model, None
    return model, freeze(load(options.model, task="rerank", **settings))


def _read(options: argparse.Namespace) -> "tuple[list[CaptionedImage], list[CaptionedImage]]":
    from mplug.train.config import DataConfig
    from mplug.train.data import Split, read_captions

    try:
        rows = read_captions(options.data, DataConfig())
    except MplugError as error:
        raise UsageError(f"--data {options.data}: {error}") from error
    unseen = options.split == Split.VAL and options.limit is None
    drawings = [row for row in rows if unseen and row.split == Split.UNSEEN_STYLE and len(row.captions) > 1]
    return chosen(rows, options), drawings


def _facts(recall: Recall) -> dict[str, float]:
    return {
        "queries": recall.num_queries,
        "recall_at_1": recall.at_1,
        "recall_at_5": recall.at_5,
        "recall_at_10": recall.at_10,
    }


def _print(title: str, rows: Rows) -> None:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    table.add_column("what", no_wrap=True)
    table.add_column("queries", justify="right")
    table.add_column("order", no_wrap=True)
    for column in ("R@1", "R@5", "R@10"):
        table.add_column(column, justify="right")
    for name, orders in rows.items():
        for number, (order, recall) in enumerate(orders.items()):
            first = (name, str(recall.num_queries)) if number == 0 else ("", "")
            shares = [f"{share:.1f}" for share in (recall.at_1, recall.at_5, recall.at_10)]
            table.add_row(*first, _NAMES[order], *shares)
        table.add_section()
    results().print(table)
