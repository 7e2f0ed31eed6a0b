"""How good written texts are: ROUGE by rouge-score, BLEU by sacreBLEU, and perplexity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mplug.errors import MplugError
from mplug.evaluation.tokenization import REMEDY, Tokenization, tokenize

ROUGE_KINDS = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True, slots=True)
class TextScores:
    """How near texts are to those that people wrote, in percent."""

    rouge_1: float
    """F1 of words; the mean over the texts, as the next two."""
    rouge_2: float
    """F1 of pairs of words."""
    rouge_l: float
    """F1 of the longest common subsequence, each text as one sentence."""
    bleu_1: float
    """Of the whole set, with the brevity penalty; words alone."""
    bleu_4: float
    """Of the whole set, up to four words in a row."""

    def metrics(self) -> dict[str, float]:
        """By name."""
        return {name: getattr(self, name) for name in self.__slots__}


def score_texts(
    candidates: Sequence[str], references: Sequence[Sequence[str]], language: str = "en"
) -> TextScores:
    """Score texts against people's.

    Chinese is taken character by character, for ROUGE without punctuation, for BLEU with it (sacreBLEU's `zh`); runs
    of Latin letters and digits stay whole. English has rouge-score's own words, stemmed as published numbers are, and
    sacreBLEU's `13a`.

    Args:
        candidates: at least one.
        references: as many, each one text or several; the best counts.
        language: `zh`, or any other that parts words by spaces.

    Raises:
        MplugError: a library is not installed, there are no candidates, or some have no reference.
    """
    _check(candidates, references)
    rouge_1, rouge_2, rouge_l = _rouge(candidates, references, language)
    bleu_1, bleu_4 = (_bleu(candidates, references, language, order) for order in (1, 4))
    return TextScores(rouge_1, rouge_2, rouge_l, bleu_1, bleu_4)


def perplexity(log_probabilities: Iterable[Sequence[float]]) -> float:
    """Exponential of the mean surprise per token, over all texts together.

    Args:
        log_probabilities: of each text its tokens', natural logarithms.

    Raises:
        MplugError: not one token, or a logarithm above 0, which no probability has.
    """
    values = [value for text in log_probabilities for value in text]
    if not values:
        raise MplugError("there are no tokens to measure perplexity on; give at least one text")
    if (largest := max(values)) > 0:
        raise MplugError(f"{largest} is no logarithm of a probability; give natural logarithms, 0 or less")
    return math.exp(-math.fsum(values) / len(values)) if -math.inf not in values else math.inf


def _check(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if not candidates:
        raise MplugError("there are no texts to score; give at least one")
    if len(candidates) != len(references):
        raise MplugError(
            f"{len(candidates)} texts have {len(references)} sets of references; give one for each"
        )
    for index, texts in enumerate(references):
        if isinstance(texts, str) or not texts:
            raise MplugError(f"references[{index}] is {texts!r}; give a list of at least one text")


def _rouge(candidates: Sequence[str], references: Sequence[Sequence[str]], language: str) -> list[float]:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise MplugError(f"ROUGE is counted by rouge-score, which is not installed: {REMEDY}") from error
    tokenizer = _Characters() if language == "zh" else None
    scorer = RougeScorer(list(ROUGE_KINDS), use_stemmer=True, tokenizer=tokenizer)
    found = [scorer.score_multi(texts, each) for each, texts in zip(candidates, references, strict=True)]
    return [100 * math.fsum(each[kind].fmeasure for each in found) / len(found) for kind in ROUGE_KINDS]


def _bleu(candidates: Sequence[str], references: Sequence[Sequence[str]], language: str, order: int) -> float:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise MplugError(f"BLEU is counted by sacreBLEU, which is not installed: {REMEDY}") from error
    most = max(len(texts) for texts in references)
    # A column for each reference; None where a text has fewer. Any: the library says str, and takes None.
    columns: Any = [[texts[n] if n < len(texts) else None for texts in references] for n in range(most)]
    bleu = BLEU(tokenize="zh" if language == "zh" else "13a", max_ngram_order=order)
    return float(bleu.corpus_score(list(candidates), columns).score)


class _Characters:
    """What rouge-score asks for words; its own tokenizer drops everything that is not ASCII."""

    def tokenize(self, text: str) -> list[str]:
        return tokenize([text], Tokenization.CHARACTERS)[0]
