"""How good captions are: CIDEr, and by pycocoevalcap BLEU, ROUGE-L and, where Java is there, METEOR."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mplug.errors import MplugError
from mplug.evaluation.cider import CiderReward
from mplug.evaluation.tokenization import (
    REMEDY,
    Tokenization,
    coco_metrics_folder,
    has_java,
    tokenization_for,
    tokenize,
)

Texts = Mapping[str, list[str]]
"""Tokenised texts of a picture, words parted by spaces, as pycocoevalcap takes them."""


@dataclass(frozen=True, slots=True, eq=False)
class CaptionScores:
    """How good a model's captions are, in percent, as papers write it (a CIDEr of 1.411 is 141.1)."""

    cider: float
    bleu: tuple[float, float, float, float]
    """BLEU-1 to BLEU-4, of the whole set."""
    rouge_l: float
    meteor: float | None
    """None: no Java, not English, or left out."""
    tokenization: Tokenization
    """What the numbers were made with; others differ."""
    cider_of: Mapping[str, float]
    """By picture."""

    def metrics(self) -> dict[str, float]:
        """By name, those that are there."""
        bleu = {f"bleu_{n}": value for n, value in enumerate(self.bleu, start=1)}
        found = {"cider": self.cider, **bleu, "rouge_l": self.rouge_l}
        return found if self.meteor is None else {**found, "meteor": self.meteor}


def score(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    language: str = "en",
    *,
    java: bool | None = None,
    meteor: bool = True,
) -> CaptionScores:
    """Scores one caption for each picture against people's.

    Args:
        candidates: by picture; at least one.
        references: of the same pictures, at least one each.
        language: `en` or `zh`; decides on words, see `tokenization`.
        java: whether to use it; None: where it is on the path.
        meteor: False leaves it out: it takes ten seconds to start.

    Raises:
        MplugError: pycocoevalcap is not installed, there are no candidates, pictures without references, or Java
            does not do its part.
    """
    coco_metrics_folder()
    _check(candidates, references)
    use_java = has_java() if java is None else java
    tokenization = tokenization_for(language, java=use_java)
    found, wanted = _tokenized(candidates, references, tokenization)
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.rouge.rouge import Rouge

    cider_of = _cider(wanted, found)
    bleu, _ = Bleu(4).compute_score(wanted, found, verbose=0)
    rouge_l, _ = Rouge().compute_score(wanted, found)
    b1, b2, b3, b4 = (100 * float(value) for value in bleu)
    return CaptionScores(
        cider=sum(cider_of.values()) / len(cider_of),
        bleu=(b1, b2, b3, b4),
        rouge_l=100 * float(rouge_l),
        meteor=_meteor(wanted, found) if meteor and tokenization is Tokenization.PTB else None,
        tokenization=tokenization,
        cider_of=cider_of,
    )


def _check(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    if not candidates:
        raise MplugError("there are no captions to score; give at least one")
    if lacking := [id for id in candidates if not references.get(id)]:
        raise MplugError(f"{len(lacking)} pictures have no references, the first is {lacking[0]!r}")


def _tokenized(
    candidates: Mapping[str, str], references: Mapping[str, Sequence[str]], tokenization: Tokenization
) -> tuple[Texts, Texts]:
    # All at once: the Penn Treebank tokenizer takes a second to start.
    flat = [*candidates.values(), *itertools.chain.from_iterable(references[id] for id in candidates)]
    words = iter([" ".join(each) for each in tokenize(flat, tokenization)])
    found = {id: [next(words)] for id in candidates}
    wanted = {id: [next(words) for _ in references[id]] for id in candidates}
    return found, wanted


def _cider(wanted: Texts, found: Texts) -> dict[str, float]:
    # Not the library's class, which is equal and slower, and fails where no reference has a word.
    reward = CiderReward({id: [text.split() for text in texts] for id, texts in wanted.items()})
    values = reward.scores(list(found), [texts[0].split() for texts in found.values()])
    return {id: 100 * float(value) for id, value in zip(found, values, strict=True)}


def _meteor(wanted: Texts, found: Texts) -> float:
    from pycocoevalcap.meteor.meteor import Meteor

    # Its process answers an empty text with an error in place of a number; a full stop scores 0 as well.
    spoken = {id: [texts[0] or "."] for id, texts in found.items()}
    meteor = Meteor()
    try:
        value, _ = meteor.compute_score(wanted, spoken)
    except (OSError, ValueError) as error:
        raise MplugError(
            f"METEOR did not run ({error}); is Java whole? Its part comes with {REMEDY}"
        ) from error
    finally:
        _close(meteor)
    return 100 * float(value)


def _close(meteor: Any) -> None:
    """Ends the process and closes its pipes, which the class (untyped) leaves open."""
    meteor.meteor_p.kill()
    meteor.meteor_p.wait()
    for pipe in (meteor.meteor_p.stdin, meteor.meteor_p.stdout, meteor.meteor_p.stderr):
        with contextlib.suppress(OSError):
            pipe.close()
    if meteor.lock.locked():  # by a call that failed; the destructor would wait for it
        meteor.lock.release()
