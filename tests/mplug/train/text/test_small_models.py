"""gpt3-poem-mini and palm-mini: their rows, of a toy's poems and abstracts, their size, and both stages in a chain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mplug
from mplug import prompts
from mplug.errors import MplugError
from mplug.evaluation.forms import form_of
from mplug.train import run
from mplug.train.splits import Split
from mplug.train.text import poems, titles
from mplug.train.text.config import MiniTextConfig, SmallShape, palm_mini_base, poem_mini_base
from mplug.train.text.export_rows import rows_by_file
from mplug.train.text.families import family_of
from mplug.train.text.poems import Couplet, Poem
from mplug.train.text.rows import TextRow, held_out
from mplug.train.text.small import SPECIAL, character_vocabulary, new_gpt3, new_palm
from mplug.train.text.titles import Abstract
from small_text_data import write_small_data

pytestmark = pytest.mark.usefixtures("one_thread")

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred toys of each kind, all different."""
    return write_small_data(tmp_path_factory.mktemp("data"))


def test_a_poem_is_a_line_with_one_of_its_tune_s_names(data: Path) -> None:
    found = poems.read_poems(data)
    assert found[1].text == "零零一甲乙，丙零零一丁。零零一甲乙，丙零零一丁。"
    assert {poem.tune for poem in found} == {"甲", "乙0"}
    assert {poem.split for poem in found} >= {Split.TRAIN, Split.HELD_OUT}
    assert all(poem.split == held_out(poem.text) for poem in found)


def test_a_file_that_is_missing_or_another_is_told(tmp_path: Path) -> None:
    with pytest.raises(MplugError, match=r"no text_poem\.jsonl"):
        poems.read_poems(tmp_path)
    (tmp_path / "text_poem.jsonl").write_text('{"prompt": "a", "text": "b"}\n')
    with pytest.raises(MplugError, match="line 1: the prompt is 'a'"):
        poems.read_poems(tmp_path)
    (tmp_path / "text_couplet.jsonl").write_text('{"text": "b"}\n')
    with pytest.raises(MplugError, match="line 1: lacks answer"):
        poems.read_couplets(tmp_path)


def test_the_second_stage_is_given_what_the_first_is_not() -> None:
    some = [Poem("浣溪沙", "一二三四五，六。", Split.TRAIN)]
    couplets = [Couplet("上面", "下面", Split.TRAIN)]
    assert [(row.source, row.target) for row in poems.general_rows(some, couplets)] == [
        ("", "一二三四五，六。"),
        ("", "上面，下面。"),
    ]
    prompts = {row.source: row.target for row in poems.prompt_rows(some, couplets)}
    assert prompts == {mplug.prompts.poem(tune="浣溪沙"): "一二三四五，六。", "上联：上面\n下联：": "下面"}


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        (
            "一一一一一，二二二二二。三三三三三，四四四四四。",
            ["一一一一一，二二二二二。三三三三三，四四四四四。"],
        ),
        (
            "九九。一一一一一，二二二二二。三三三三三，四四四四四。五五五五五。九。",
            ["一一一一一，二二二二二。三三三三三，四四四四四。"],
        ),
        ("一一一一一，二二二二二。三三三三三。", []),
        ("一一一一一，二二、二二二。三三三三三，四四四四四。", []),
    ],
)
def test_runs_of_five_characters_are_of_four_lines_at_least(text: str, runs: list[str]) -> None:
    assert poems.five_character_texts([Poem("", text, Split.TRAIN)]) == runs


def test_an_opening_is_the_first_line_with_its_mark() -> None:
    assert poems.opening("一二三，四五。") == "一二三，"


def test_a_clause_that_says_most_of_an_abstract_is_found() -> None:
    said = "提出飞机的姿态控制方法"
    abstract = Abstract(
        f"研究飞机的姿态控制问题，{said}，采用平方和方法求解，结果令人满意而且稳定.", "", Split.TRAIN
    )
    rows = [row for row in titles.copying_rows([abstract], [], []) if row.source.startswith(titles.CLAUSE)]
    assert rows
    assert all(row.target in row.source for row in rows)
    assert said in {row.target for row in rows}


def test_neighbouring_lines_of_equal_length_answer_each_other_and_are_said_again() -> None:
    poem = Poem("", "一一一一一，二二二二二。三三三，四四四。五五五五五，六六六六六六。", Split.TRAIN)
    rows = titles.copying_rows([], [], [poem])
    assert [(row.source, row.target) for row in rows] == [
        ("上联：一一一一一\n下联：", "二二二二二"),
        ("重复：一一一一一", "一一一一一"),
    ]


def test_longer_pairs_are_put_together_of_shorter_ones() -> None:
    pairs = [
        (first * count, second * count) for count in (3, 5, 7) for first, second in ("春秋", "山水", "红绿")
    ]
    found = poems.longer(pairs)
    assert len(found) == len(pairs) // 2
    assert found == poems.longer(pairs)
    for first, second in found:
        assert form_of(first) == form_of(second)
        assert {*zip(first.split("，"), second.split("，"), strict=True)} <= {*pairs}
        assert 2 <= len(form_of(first)) <= 4
    assert poems.longer(pairs[:3]) == []


def test_the_second_stage_learns_further_lines_that_answer_each_other() -> None:
    poem = Poem("", "一一一一一，二二二二二。三三三三三，四四四四四。", Split.TRAIN)
    couplet = Couplet("春天来了吗", "冬天走了么", Split.TRAIN)
    rows = titles.answering_rows([], [couplet], [poem] * 3)
    assert rows[0] == TextRow(prompts.couplet(couplet.first), couplet.second)
    assert all(form_of(row.source.split("\n")[0][3:]) == form_of(row.target) for row in rows)
    assert {len(form_of(row.target)) for row in rows} > {1}


def test_half_of_the_first_stage_is_copying() -> None:
    abstract = Abstract(
        "研究飞机的姿态控制问题，提出飞机的姿态控制方法，采用平方和方法求解.", "题目", Split.TRAIN
    )
    poem = Poem("", "一一一一一，二二二二二。", Split.TRAIN)
    couplet = Couplet("春天来了吗", "冬天走了么", Split.TRAIN)
    rows = titles.copying_rows([abstract], [couplet], [poem] * 20)
    copied = sum(row.weight for row in rows if row.target in row.source)
    assert 0.4 < copied / sum(row.weight for row in rows) < 0.6


def test_a_vocabulary_has_the_frequent_characters() -> None:
    vocab = character_vocabulary(["春春花A1a", "春 花月1"], 2)
    assert vocab == [*SPECIAL, "春", "花", "a", "1", "##a", "##1"]


def test_the_rows_of_a_split_are_those_of_no_other(data: Path) -> None:
    train, test = (rows_by_file(data, split) for split in (Split.TRAIN, Split.HELD_OUT))
    assert set(train) == {"poems", "fives", "couplets", "titles"}
    for kind, rows in train.items():
        assert rows
        assert not set(rows) & set(test[kind])
    assert all(source.startswith("五言诗\n") for source, _ in train["fives"])


@pytest.mark.parametrize(
    ("config", "make", "pieces"), [(poem_mini_base(), new_gpt3, 4000), (palm_mini_base(), new_palm, 4500)]
)
def test_what_ships_takes_four_megabytes_at_most(
    config: MiniTextConfig, make: Any, pieces: int, tmp_path: Path
) -> None:
    vocab = [*SPECIAL, *(chr(0x4E00 + number) for number in range(pieces - len(SPECIAL)))]
    family_of(make(config, vocab), config.max_text_tokens).save(tmp_path / "mini", int8=True)
    size = sum(file.stat().st_size for file in (tmp_path / "mini").rglob("*") if file.is_file())
    assert 2 * MEGABYTE < size <= 4 * MEGABYTE


SHAPE = SmallShape(hidden=16, layers=1, heads=2, positions=64, least_count=1, dropout=0.0)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["gpt3-poem-mini", "palm-mini"])
def test_two_stages_make_a_model_that_loads(name: str, data: Path, tmp_path: Path) -> None:
    small = [f"shape.{field}={getattr(SHAPE, field)}" for field in ("hidden", "layers", "heads", "positions")]
    quick = [
        *small,
        "shape.least_count=1",
        "epochs=1",
        "max_text_tokens=40",
        "measure.written=4",
        "batch_size=16",
    ]
    base = run(f"{name}-base", [*quick, "measure.max_length=8"], data=[str(data)], output=tmp_path / "base")
    start = tmp_path / "base" / "output_best"
    final = run(
        name,
        [*quick, "measure.max_length=8", f"start={start}"],
        data=[str(data)],
        output=tmp_path / "final",
    )
    assert (base.name, final.name) == ("export", "export")
    assert (final / "model.safetensors").is_file()
    generator: Any = mplug.load(final, task="text-generation")
    assert generator.licence.startswith("Research use")
    assert generator.read("上联：零零一上\n下联：").first
    log = (tmp_path / "final" / "log.jsonl").read_text()
    assert '"couplet_same_length"' in log
    assert ('"form"' if name == "gpt3-poem-mini" else '"rouge_l"') in log
