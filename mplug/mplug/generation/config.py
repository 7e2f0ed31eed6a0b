"""How texts are generated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from mplug.errors import ConfigError

Method = Literal["beam", "greedy", "sample"]
Rules = Literal["mplug", "open_clip", "gpt3"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationConfig:
    """Settings of one call; the defaults are ModelScope's for mPLUG (MPlugConfig).

    Raises:
        ConfigError: a value out of its range, or two that do not go together.
    """

    method: Method = "beam"
    """`beam` is the reference's search (see `rules`); `greedy` takes the likeliest token; `sample` draws."""
    rules: Rules = "mplug"
    """Which reference: `mplug` is ModelScope's search (see `mplug.generation.beam`), `open_clip` open_clip's for CoCa
    (see `mplug.generation.open_clip_beam`), `gpt3` ModelScope's for the distributed GPT-3 (see
    `mplug.generation.gpt3_beam`). The length penalty is theirs, too."""
    min_length: int = 1
    """Tokens to generate before the end is allowed."""
    max_length: int = 10
    """Most tokens to generate, the ending one counted, the prompt not."""
    beam_size: int = 5
    """Beams of `beam`."""
    num_results: int = 1
    """Texts for each item: the best of `beam`, or as many draws of `sample`."""
    length_penalty: float = 0.6
    """Exponent of GNMT's length penalty (Wu et al. 2016, section 7), which mPLUG's reference fixes at 0.6; by
    open_clip's and GPT-3's rules of the length itself, fixed at 1."""
    temperature: float = 1.0
    """`sample`: logits are divided by it before drawing; scores stay those of temperature 1."""
    top_k: int = 0
    """`sample`: draw from the k likeliest tokens (Fan et al. 2018); 0 = from all."""
    top_p: float = 1.0
    """`sample`: draw from the fewest likeliest tokens that have this much probability together (Holtzman et al.
    2020); 1 = from all."""
    seed: int = 0
    """`sample`: where a call gives no seeds, every item has this one. An item's texts depend on its own seed, never
    on the items beside it."""
    repetition_penalty: float = 1.0
    """Logits of tokens that the text has already, prompt included, are divided by it where positive and multiplied
    where negative (Keskar et al. 2019, section 4.1); 1 = off."""
    no_repeat_ngram_size: int = 0
    """No run of so many tokens comes twice in a text, prompt included; 0 = off."""
    deterministic: bool = False
    """Decode every item alone, so that shapes, hence bits, do not depend on the items beside it."""

    @classmethod
    def check_names(cls, changes: Iterable[str]) -> None:
        """Refuse what is no setting.

        Raises:
            ConfigError: names the known ones.
        """
        known = cls.__dataclass_fields__
        if unknown := [name for name in changes if name not in known]:
            raise ConfigError(
                f"unknown among {', '.join(unknown)}; settings of generation are {', '.join(known)}"
            )

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ConfigError(f"method is {self.method!r}; known are {', '.join(get_args(Method))}")
        if self.rules not in get_args(Rules):
            raise ConfigError(f"rules is {self.rules!r}; known are {', '.join(get_args(Rules))}")
        for name in ("max_length", "beam_size", "num_results"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        self._check(
            "min_length", 0 <= self.min_length <= self.max_length, f"0 to max_length ({self.max_length})"
        )
        self._check("temperature", self.temperature > 0, "above 0 (method 'greedy' is what 0 would mean)")
        self._check("top_p", 0 < self.top_p <= 1, "above 0, at most 1")
        self._check("repetition_penalty", self.repetition_penalty > 0, "above 0")
        for name in ("top_k", "no_repeat_ngram_size"):
            self._check(name, getattr(self, name) >= 0, "0 (off) or more")
        most = {"beam": self.beam_size, "greedy": 1}.get(self.method, self.num_results)
        self._check("num_results", self.num_results <= most, f"at most {most} with method {self.method!r}")

    @property
    def sequences(self) -> int:
        """Sequences that are decoded at a time for one item."""
        return self.beam_size if self.method == "beam" else self.num_results

    @property
    def candidates(self) -> int:
        """Tokens that the search takes from one sequence at a time; no vocabulary may have fewer."""
        if self.method != "beam":
            return 1
        return 2 * self.beam_size if self.rules in ("open_clip", "gpt3") else self.beam_size

    def penalty(self, length: int) -> float:
        """What a sum over so many tokens is divided by: GNMT's ((5 + length) / 6) ** alpha, or length ** alpha."""
        plain = self.rules in ("open_clip", "gpt3")
        return float((length if plain else (5.0 + length) / 6.0) ** self.length_penalty)

    def _check(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be {wanted}")
