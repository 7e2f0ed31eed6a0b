"""What an encoder reads of which a decoder writes: [CLS], a text, [SEP]; with [SEP] also where the text says so."""

from __future__ import annotations

import numpy as np

from mplug.text.tokenizer import Tokens, WordPieceTokenizer

SEP = "[SEP]"


def encode_source(tokenizer: WordPieceTokenizer, text: str) -> Tokens:
    """Tokenize one text; too long ones keep their beginning, and say so.

    Fine-tuned models are given an answer and the context it is from as `answer[SEP]context`; as in BertTokenizer, what
    is spelt so is the special token.
    """
    ids: list[int] = []
    for number, part in enumerate(tokenizer.pieces(text.split(SEP))):
        ids += [tokenizer.sep_id] * (number > 0) + part.ids
    room = tokenizer.max_length - 2
    whole = [tokenizer.cls_id, *ids[:room], tokenizer.sep_id]
    return Tokens(np.array(whole, dtype=np.int64), truncated=len(ids) > room)
