from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mplug.errors import MplugError
from mplug.evaluation import captions
from mplug.evaluation.tokenization import Tokenization, has_java, tokenize

needs_java = pytest.mark.skipif(not has_java(), reason="java is not on the path")
REFERENCES = {
    "dog": ["A dog is running in the snow.", "A black dog runs."],
    "men": ["Two men sit on a bench.", "Men sitting"],
}
CANDIDATES = {"dog": "a dog is running in the snow", "men": "two cats"}


def test_words_without_java() -> None:
    found = tokenize(["It's a DOG's life -- (3.5 of_10)!", "", "naïve café"], Tokenization.SIMPLE)
    assert found == [["it's", "a", "dog's", "life", "3", "5", "of", "10"], [], ["naïve", "café"]]


def test_chinese_is_characters_without_spaces_and_punctuation() -> None:
    found = tokenize(["雪 地里，2 只dog在跑。", "雪地里2只dog在跑"], Tokenization.CHARACTERS)
    assert found[0] == found[1] == ["雪", "地", "里", "2", "只", "dog", "在", "跑"]


@needs_java
def test_the_treebank_words_are_the_librarys_own() -> None:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    texts = ["A man's dog, running (fast)!", "", "can't -- won't; $5 / 3.5...", "a\nb", "x " * 50]
    library = PTBTokenizer().tokenize({n: [{"caption": text}] for n, text in enumerate(texts)})
    ours = tokenize(texts, Tokenization.PTB)
    assert [" ".join(words) for words in ours] == [library[n][0] for n in range(len(texts))]


@needs_java
def test_what_the_librarys_wrapper_gets_wrong_stays_in_its_line() -> None:
    # U+2028 is a line's end to Java; accents and dashes need UTF-8 whatever the machine's encoding is.
    found = tokenize(["a\u2028b", "naïve café – 狗"], Tokenization.PTB)
    assert found == [["a", "b"], ["naïve", "café", "狗"]]


def test_scores_without_java_by_hand() -> None:
    scores = captions.score(CANDIDATES, REFERENCES, java=False)
    assert (scores.tokenization, scores.meteor) == (Tokenization.SIMPLE, None)
    # 9 words, 8 of them in a reference; 7 words against references of 7 and 4, 2 against 6 and 2: no penalty.
    assert scores.bleu[0] == pytest.approx(100 * 8 / 9)
    # 7 bigrams, 6 of them right.
    assert scores.bleu[1] == pytest.approx(100 * (8 / 9 * 6 / 7) ** 0.5)
    # ROUGE-L of the second: longest subsequence 1 of 2 and of 6 words, beta 1.2.
    rouge = 2.44 * (1 / 2) * (1 / 6) / (1 / 6 + 1.44 / 2)
    assert scores.rouge_l == pytest.approx(100 * (1 + rouge) / 2)
    assert scores.cider == pytest.approx(sum(scores.cider_of.values()) / 2)
    assert list(scores.cider_of) == ["dog", "men"]
    assert set(scores.metrics()) == {"cider", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l"}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_perfect_caption_is_a_hundred_percent(language: str) -> None:
    texts = {"en": ["a dog runs home", "two red cars race"], "zh": ["一只狗在跑步", "两辆红色汽车"]}[language]
    named = dict(enumerate(texts))
    same = {str(key): text for key, text in named.items()}
    scores = captions.score(same, {key: [text] for key, text in same.items()}, language, java=False)
    assert scores.bleu == pytest.approx((100,) * 4)
    assert scores.rouge_l == pytest.approx(100)
    assert scores.cider == pytest.approx(1000)


@needs_java
@pytest.mark.long
def test_with_java_meteor_is_there_even_of_an_empty_caption() -> None:
    scores = captions.score({**CANDIDATES, "men": ""}, REFERENCES)
    assert scores.tokenization is Tokenization.PTB
    assert scores.meteor is not None
    assert 40 < scores.meteor < 60  # one of two is perfect
    assert scores.cider_of["men"] == 0


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands for java")
def test_a_java_that_does_not_work_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho no such jar >&2\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.path.dirname(shutil.which('sh') or '')}")
    assert has_java()
    with pytest.raises(MplugError, match=r"0 lines for 6 texts: no such jar"):
        captions.score(CANDIDATES, REFERENCES)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert captions.score(CANDIDATES, REFERENCES).tokenization is Tokenization.SIMPLE


def test_what_cannot_be_scored_is_refused() -> None:
    with pytest.raises(MplugError, match="no captions to score"):
        captions.score({}, {})
    with pytest.raises(MplugError, match="1 pictures have no references, the first is 'cat'"):
        captions.score({"dog": "a", "cat": "b"}, {"dog": ["a"], "cat": []})
