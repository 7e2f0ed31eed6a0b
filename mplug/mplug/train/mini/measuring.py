"""What a stage is measured by, on `dev` alone: reranking, captions, answers.

Captions are scored by CIDEr without Java (simple words), answers by equality but for case and spaces: good for choosing
checkpoints, not for reports.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mplug.decoder_state import DecoderState
from mplug.evaluation.cider import CiderReward
from mplug.evaluation.recall import caption_relevance, recall
from mplug.evaluation.tokenization import tokenization_for, tokenize
from mplug.generation import GenerationConfig, generate
from mplug.text.tokenizer import pad
from mplug.train.data import CaptionedImage
from mplug.train.evaluate import text_embedder
from mplug.train.experiments.models import WholeModel
from mplug.train.mini.config import PROMPT_ZH, MeasureConfig
from mplug.train.mini.pair_scores import pair_logits
from mplug.train.mini.reading import StageData
from mplug.train.mini.tokens import TokenCache

CaptionScore = Callable[[Mapping[str, str], Mapping[str, Sequence[str]], str], float]
"""From captions and references by path, and a language, to a number in percent."""

_BATCH = 32


def cider(captions: Mapping[str, str], references: Mapping[str, Sequence[str]], language: str) -> float:
    """CIDEr-D in percent, document frequencies from these references."""
    kind = tokenization_for(language, java=False)
    judge = CiderReward({path: tokenize(texts, kind) for path, texts in references.items()})
    paths = list(captions)
    scores = judge.scores(paths, tokenize([captions[path] for path in paths], kind))
    return float(100 * scores.mean())


def measure_matching(model: WholeModel, data: StageData, config: MeasureConfig) -> dict[str, float]:
    """R@1 of pictures by text, in percent: by the contrastive half, reranked, by the sum of cosine and probability."""
    languages = [code for code in ("en", "zh") if any(_captions(image, code) for image in data.dev)]
    both = {code: _reranked(model, data, config, code) for code in languages}
    found: dict[str, float] = {}
    for place, name in enumerate(("itc_r1", "reranked_r1", "both_r1")):
        found |= {f"{name}_{code}": values[place] for code, values in both.items()}
        found[name] = sum(values[place] for values in both.values()) / max(1, len(both))
    return found


def _reranked(model: WholeModel, data: StageData, config: MeasureConfig, language: str) -> list[float]:
    images = [image for image in data.dev if _captions(image, language)]
    tokens = data.tokens
    embeds = torch.cat([model.project_image(tokens.first([(image.path, 0)])) for image in images])
    texts, relevant = caption_relevance([_captions(image, language) for image in images])
    some = np.linspace(0, len(texts) - 1, min(config.queries, len(texts))).astype(int)
    queries = [texts[row] for row in some]
    scores = text_embedder(model)(queries) @ embeds.float().cpu().T
    first = scores.topk(min(config.candidates, len(images)))
    matched = torch.full_like(scores, -torch.inf)
    for row, query in enumerate(queries):
        candidates = first.indices[row].tolist()
        matched[row, candidates] = _match(
            model, query, tokens.read([(images[c].path, 0) for c in candidates])
        )
    orders = (scores, matched, torch.where(matched > -torch.inf, scores + matched.sigmoid(), matched))
    return [recall(each.numpy(), relevant[some]).at_1 for each in orders]


def _match(model: WholeModel, query: str, tokens_CND: Tensor) -> Tensor:
    """Log-odds of "matches", (C,)."""
    ids_1L, mask_1L = (
        torch.from_numpy(a).to(tokens_CND.device)
        for a in pad([model.tokenizer.encode(query)], model.tokenizer.pad_id)
    )
    return pair_logits(model, tokens_CND, model.encode_text(ids_1L, mask_1L), mask_1L)[:, 0].cpu()


def measure_captions(
    model: WholeModel, data: StageData, config: MeasureConfig, score: CaptionScore = cider
) -> dict[str, float]:
    """How good captions are, in each language that there are references in."""
    found = {}
    for language, prompt in (("en", ""), ("zh", PROMPT_ZH)):
        images = [image for image in data.dev if _captions(image, language)][: config.captions]
        if images:
            captions = write_captions(model, data.tokens, [image.path for image in images], prompt)
            references = {image.path: _captions(image, language) for image in images}
            found[f"cider_{language}"] = score(captions, references, language)
    return found


def write_captions(
    model: WholeModel, tokens: TokenCache, paths: Sequence[str], prompt: str = ""
) -> dict[str, str]:
    """A caption of each picture, without the prompt that it begins with, by the checkpoint's own settings."""
    decoder, config = model.text_decoder, model.generation_config()
    given = [decoder.bos_id, *model.tokenizer.encode(prompt).ids[1:-1].tolist()]
    captions: dict[str, str] = {}
    for start in range(0, len(paths), _BATCH):
        some = paths[start : start + _BATCH]
        tokens_BND = tokens.read([(path, 0) for path in some])
        found = generate(decoder, _starts(model, tokens_BND), [given] * len(some), config)
        captions |= {
            path: model.tokenizer.decode(best.ids[len(given) :])
            for path, (best, *_) in zip(some, found, strict=True)
        }
    return captions


def _starts(model: WholeModel, memory_BND: Tensor) -> Callable[[Sequence[int]], DecoderState]:
    return lambda rows: model.text_decoder.start(memory_BND[list(rows)])


def measure_answers(model: WholeModel, data: StageData, config: MeasureConfig) -> dict[str, float]:
    """Share of right answers in percent, by type of question, and of all."""
    rows = data.dev_questions
    some = [
        rows[place] for place in np.linspace(0, len(rows) - 1, min(config.questions, len(rows))).astype(int)
    ]
    right: defaultdict[str, list[bool]] = defaultdict(list)
    greedy: GenerationConfig = model.generation_config(method="greedy")
    for start in range(0, len(some), _BATCH):
        batch = some[start : start + _BATCH]
        images = data.tokens.read([(row.path, 0) for row in batch])
        for row, (best, *_) in zip(
            batch, model.answer(images, [r.question for r in batch], greedy), strict=True
        ):
            hit = _plain(best.text) in {_plain(answer) for answer in row.answers}
            right[f"answers_{row.type}"].append(hit)
            right["answers"].append(hit)
    return {name: 100 * sum(hits) / len(hits) for name, hits in right.items()}


def _plain(text: str) -> str:
    return text.casefold().replace(" ", "")


def _captions(image: CaptionedImage, language: str) -> tuple[str, ...]:
    return image.captions if language == "en" else image.captions_zh
