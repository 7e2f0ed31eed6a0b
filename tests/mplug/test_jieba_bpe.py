"""The reference's tokenizer of jieba and BPE, and Chinese text behind BERT's."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from golden.mplug_cases import GOLDEN
from mplug.errors import CheckpointError
from mplug.text.chinese import join_chinese
from mplug.text.jieba_bpe import JiebaBpeTokenizer, segmenter

FILE = GOLDEN / "extras" / "jieba_bpe_tokenizer.json"
STORED = json.loads((GOLDEN / "extras" / "jieba_bpe.json").read_text())
JOINED = json.loads((GOLDEN / "extras" / "chinese_text.json").read_text())[
    "remove_space_between_chinese_chars"
]


@pytest.fixture(scope="module")
def tokenizer() -> JiebaBpeTokenizer:
    return JiebaBpeTokenizer.from_file(FILE, max_length=40)


@pytest.mark.parametrize("text", STORED["cases"])
def test_ids_are_the_reference_s(text: str, tokenizer: JiebaBpeTokenizer) -> None:
    stored = STORED["cases"][text]
    assert list(segmenter().cut(text)) == stored["jieba"]
    assert tokenizer.encode(text).ids.tolist() == stored["ids"]
    assert tokenizer.encode_code(text).ids.tolist() == stored["code_ids"]
    assert tokenizer.decode(stored["ids"]) == stored["detokenized"]


def test_special_tokens_are_the_reference_s(tokenizer: JiebaBpeTokenizer) -> None:
    assert (tokenizer.sep_id, tokenizer.eod_id, tokenizer.pad_id) == (STORED["sep"], STORED["eod"], 0)
    assert tokenizer.vocab_size == STORED["vocab_size"]


def test_text_ends_at_the_first_sep(tokenizer: JiebaBpeTokenizer) -> None:
    stored = STORED["early_stop"]
    assert tokenizer.decode(stored["ids"]) == stored["text"]
    assert tokenizer.decode_all(stored["ids"]) == stored["text_no_early_stop"]


def test_long_texts_keep_their_beginning_and_say_so(tokenizer: JiebaBpeTokenizer) -> None:
    text = "今天天气真好" * 20
    tokens = tokenizer.encode(text)
    assert (len(tokens.ids), tokens.truncated) == (40, True)
    assert not tokenizer.encode("今天").truncated
    assert [one.ids.tolist() for one in tokenizer.encode_batch(["今天", text])] == [
        tokenizer.encode("今天").ids.tolist(),
        tokens.ids.tolist(),
    ]


def test_it_is_written_as_it_was_read(tokenizer: JiebaBpeTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    assert (tmp_path / "tokenizer.json").read_bytes() == FILE.read_bytes()


def test_files_that_are_no_such_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing in"):
        JiebaBpeTokenizer.from_file(path, max_length=9)
    path.write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a tokenizer of the tokenizers library"):
        JiebaBpeTokenizer.from_file(path, max_length=9)
    values = json.loads(FILE.read_text())
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] != "<sep>"]
    del values["model"]["vocab"]["<sep>"]
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="the tokenizer lacks <sep>"):
        JiebaBpeTokenizer.from_file(path, max_length=9)


def test_nothing_is_kept_in_the_folder_of_temporary_files(tmp_path: Path) -> None:
    program = "from mplug.text.jieba_bpe import segmenter; print(list(segmenter().cut('今天天气')))"
    environment = {"TMPDIR": str(tmp_path), "PATH": "", "PYTHONWARNINGS": "error"}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert result.stdout == "['今天天气']\n"
    assert result.stderr == ""
    assert list(tmp_path.iterdir()) == []
    assert tempfile.gettempdir() != str(tmp_path)


@pytest.mark.parametrize("text", JOINED)
def test_spaces_between_chinese_words_go_as_in_the_reference(text: str) -> None:
    assert join_chinese(text) == JOINED[text]
