"""The text decoder: the reference's logits, and the cached path against the plain one."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from generation_cases import GOLDEN_DECODERS, Memories, golden_decoder, random_decoder, random_memories
from mplug.decoder_state import DecoderState
from mplug.packed_linear import PackedLinear, can_pack
from mplug.text_decoder import TextDecoder

TOLERANCE = 1e-5


def relative_error(ours: Tensor, wanted: Tensor) -> float:
    assert ours.shape == wanted.shape
    return float((ours - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("name", GOLDEN_DECODERS)
@torch.no_grad()
def test_teacher_forcing_gives_the_reference_logits(name: str, tmp_path: Path) -> None:
    golden = golden_decoder(name, tmp_path / name)
    ids, mask = golden.case.io["answer_input_ids"], golden.case.io["answer_attention_mask"]
    assert not mask.bool().all(), "the golden batch has padding"

    logits = golden.decoder(ids, golden.memory, mask_BL=mask, memory_mask_BN=golden.memory_mask)

    assert relative_error(logits, golden.case.io["decoder_logits"]) < TOLERANCE


@pytest.mark.parametrize("name", GOLDEN_DECODERS)
def test_steps_give_the_reference_logits(name: str, tmp_path: Path) -> None:
    golden = golden_decoder(name, tmp_path / name)
    ids, lengths = golden.case.io["answer_input_ids"], golden.case.io["answer_attention_mask"].sum(1)
    state = golden.start(range(2))
    for position in range(int(lengths.min())):
        logits = golden.decoder.step(ids[:, position : position + 1], state)
        assert relative_error(logits, golden.case.io["decoder_logits"][:, position]) < TOLERANCE
    whole = golden.decoder.step(ids, golden.start(range(2)), lengths_S=lengths)
    assert relative_error(whole, golden.case.io["decoder_logits"][torch.arange(2), lengths - 1]) < TOLERANCE


class Uncached:
    """What a state should be, as texts."""

    def __init__(self, memories: Memories) -> None:
        self.memories = memories
        self.images = list(range(memories.memory.shape[0]))
        self.each = 1
        self.texts: list[list[int]] = [[] for _ in self.images]

    @torch.no_grad()
    def logits(self) -> Tensor:
        rows = []
        for number, text in enumerate(self.texts):
            image = [self.images[number // self.each]]
            mask = None if self.memories.mask is None else self.memories.mask[image]
            memory = self.memories.memory[image]
            rows.append(self.memories.decoder(torch.tensor([text]), memory, memory_mask_BN=mask)[0, -1])
        return torch.stack(rows)

    def read(self, decoder: TextDecoder, state: DecoderState, data: st.DataObject) -> Tensor:
        tokens = st.integers(0, decoder.vocab_size - 1)
        news = data.draw(
            st.lists(
                st.lists(tokens, min_size=1, max_size=4), min_size=len(self.texts), max_size=len(self.texts)
            )
        )
        longest = max(map(len, news))
        ids = torch.tensor([[*new, *[0] * (longest - len(new))] for new in news])
        lengths = torch.tensor([len(new) for new in news])
        plain = int(lengths.min()) == longest and data.draw(st.booleans())
        logits = decoder.step(ids, state, lengths_S=None if plain else lengths)
        self.texts = [text + new for text, new in zip(self.texts, news, strict=True)]
        return logits

    def repeat(self, state: DecoderState, n: int) -> None:
        state.repeat(n)
        self.each = n
        self.texts = [text for text in self.texts for _ in range(n)]

    def reorder(self, state: DecoderState, data: st.DataObject) -> None:
        rows = [
            image * self.each + data.draw(st.integers(0, self.each - 1))
            for image in range(len(self.images))
            for _ in range(self.each)
        ]
        state.select(torch.tensor(rows))
        self.texts = [self.texts[row] for row in rows]

    def drop(self, state: DecoderState, data: st.DataObject) -> None:
        places = st.lists(st.sampled_from(range(len(self.images))), unique=True, min_size=1)
        kept = data.draw(places)
        state.keep_images(torch.tensor(kept))
        self.texts = [self.texts[place * self.each + n] for place in kept for n in range(self.each)]
        self.images = [self.images[place] for place in kept]


DECODER = random_decoder(0)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), images=st.integers(1, 3), beams=st.integers(1, 3), masked=st.booleans())
def test_any_course_of_decoding_equals_the_full_forward(
    data: st.DataObject, images: int, beams: int, masked: bool
) -> None:
    generator = torch.Generator().manual_seed(images)
    memories = random_memories(DECODER, images, generator, masked=masked)
    state, plain = memories(range(images)), Uncached(memories)
    assert relative_error(plain.read(DECODER, state, data), plain.logits()) < TOLERANCE
    plain.repeat(state, beams)
    for _ in range(data.draw(st.integers(1, 4))):
        if data.draw(st.booleans()):
            plain.reorder(state, data)
        if data.draw(st.booleans()):
            plain.drop(state, data)
        assert relative_error(plain.read(DECODER, state, data), plain.logits()) < TOLERANCE
        assert state.lengths_S.tolist() == [len(text) for text in plain.texts]


def test_long_texts_outgrow_the_first_cache() -> None:
    memories = random_memories(DECODER, 2, torch.Generator().manual_seed(0))
    ids = torch.randint(0, 50, (2, 40), generator=torch.Generator().manual_seed(1))
    state = memories([0, 1])
    with torch.no_grad():
        full = DECODER(ids, memories.memory)
    for position in range(40):
        logits = DECODER.step(ids[:, position : position + 1], state)
        assert relative_error(logits, full[:, position]) < TOLERANCE
        state.select(torch.arange(2))
    with pytest.raises(ValueError, match=r"41 tokens long.*40 positions"):
        DECODER.step(ids[:, :1], state)


def test_in_float64_steps_are_the_forward_to_the_last_digits() -> None:
    decoder = random_decoder(3).double()
    assert not can_pack("cpu", torch.float64), "this is the path without oneDNN"
    memory = torch.randn(2, 7, 24, dtype=torch.float64)
    ids = torch.randint(0, 50, (2, 9))
    state = decoder.start(memory)
    stepped = torch.stack([decoder.step(ids[:, at : at + 1], state) for at in range(9)], dim=1)
    with torch.no_grad():
        assert relative_error(stepped, decoder(ids, memory)) < 1e-13


def test_in_bfloat16_steps_are_the_forward_as_far_as_it_goes() -> None:
    decoder = random_decoder(3).bfloat16()
    memory = torch.randn(2, 7, 24, dtype=torch.bfloat16)
    ids = torch.randint(0, 50, (2, 9))
    with torch.no_grad():
        wanted = decoder(ids, memory)[:, -1].float()
    assert relative_error(decoder.step(ids, decoder.start(memory)).float(), wanted) < 0.05


def test_scores_are_the_log_probabilities_of_teacher_forcing() -> None:
    memories = random_memories(DECODER, 2, torch.Generator().manual_seed(0))
    ids = torch.randint(0, 50, (2, 8), generator=torch.Generator().manual_seed(1))
    state = memories([0, 1])
    first = DECODER.step(ids[:, :1], state).log_softmax(-1).gather(1, ids[:, 1:2])
    rest = DECODER.score(ids[:, 1:-1], state, ids[:, 2:])
    with torch.no_grad():
        wanted = DECODER(ids, memories.memory)[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    assert torch.allclose(torch.cat([first, rest], dim=1), wanted, atol=1e-5)


def test_forward_has_gradients_where_they_belong() -> None:
    decoder = random_decoder(1)
    memory = torch.randn(1, 7, 24, requires_grad=True)
    decoder(torch.tensor([[1, 5, 6]]), memory)[0, 1, 9].backward()
    assert memory.grad is not None
    assert memory.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in decoder.parameters())
    positions = decoder.embeddings.position.weight.grad
    assert positions is not None
    assert positions[:2].abs().sum() > 0
    assert positions[2:].abs().sum() == 0, "a token sees those before it and itself"


def test_the_output_matrix_is_the_word_embeddings() -> None:
    names = {name for name, _ in random_decoder(0).named_parameters()}
    assert {name for name in names if name.startswith("head.")} == {
        "head.dense.weight",
        "head.dense.bias",
        "head.norm.weight",
        "head.norm.bias",
        "head.bias",
    }


@pytest.mark.parametrize("change", ["load_state_dict", "cast", "train"])
def test_changed_weights_are_noticed(change: str) -> None:
    decoder, other = random_decoder(1), random_decoder(2)
    memory, ids = torch.randn(1, 7, 24), torch.tensor([[1, 5]])
    before = decoder.step(ids, decoder.start(memory))
    if change == "load_state_dict":
        decoder.load_state_dict(other.state_dict())
    else:
        if change == "train":
            decoder.train()
        with torch.no_grad():
            for parameter, theirs in zip(decoder.parameters(), other.parameters(), strict=True):
                parameter.copy_(theirs)
        decoder.eval() if change == "train" else decoder.double().float()
    after = decoder.step(ids, decoder.start(memory))
    assert not torch.allclose(before, after)
    assert torch.equal(after, other.step(ids, other.start(memory)))


def test_a_decoder_that_has_decoded_can_be_copied() -> None:
    decoder = random_decoder(1)
    memory, ids = torch.randn(1, 7, 24), torch.tensor([[1, 5]])
    logits = decoder.step(ids, decoder.start(memory))
    for twin in (copy.deepcopy(decoder), pickle.loads(pickle.dumps(decoder))):
        assert torch.equal(twin.step(ids, twin.start(memory)), logits)


def test_what_cannot_be_is_refused() -> None:
    decoder = random_decoder(1)
    with pytest.raises(ValueError, match="memory is 5 wide; this decoder attends to 24"):
        decoder.start(torch.randn(1, 7, 5))
    with pytest.raises(ValueError, match="masked altogether"):
        decoder.start(torch.randn(1, 7, 24), memory_mask_BN=torch.zeros(1, 7, dtype=torch.bool))
    with pytest.raises(ValueError, match="41 tokens long"):
        decoder(torch.ones(1, 41, dtype=torch.int64), torch.randn(1, 7, 24))
    state = decoder.start(torch.randn(2, 7, 24), sequences_per_image=2)
    with pytest.raises(ValueError, match="ids have 2 rows, the state 4 sequences"):
        decoder.step(torch.ones(2, 1, dtype=torch.int64), state)
    with pytest.raises(ValueError, match="2 sequences; only one can be repeated"):
        state.repeat(2)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 9),
    width=st.integers(1, 40),
    outputs=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    gelu=st.booleans(),
)
def test_packed_layers_are_linear_layers(rows: int, width: int, outputs: list[int], gelu: bool) -> None:
    generator = torch.Generator().manual_seed(rows)
    weights = [torch.randn(count, width, generator=generator) for count in outputs]
    biases = [torch.randn(count, generator=generator) for count in outputs]
    x = torch.randn(2, rows, width, generator=generator)
    wanted = torch.cat([x @ w.T + b for w, b in zip(weights, biases, strict=True)], dim=-1)
    wanted = torch.nn.functional.gelu(wanted) if gelu else wanted
    assert torch.allclose(PackedLinear(weights, biases, gelu=gelu)(x), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
    reason="this torch has no oneDNN",
)
def test_where_torch_has_onednn_weights_are_packed() -> None:
    # Without it texts are the same and take twice as long, which nothing else here would notice.
    assert can_pack("cpu", torch.float32)
    assert not can_pack("cuda", torch.float32)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_on_cuda_steps_give_the_cpu_logits() -> None:
    decoder, memory, ids = random_decoder(1), torch.randn(2, 7, 24), torch.tensor([[1, 5, 6], [1, 7, 0]])
    lengths = torch.tensor([3, 2])
    wanted = decoder.step(ids, decoder.start(memory), lengths_S=lengths)
    decoder.cuda()
    state = decoder.start(memory.cuda())
    assert relative_error(decoder.step(ids, state, lengths_S=lengths).cpu(), wanted) < 1e-4
