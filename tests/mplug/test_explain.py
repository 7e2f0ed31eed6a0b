"""Maps of what decisions looked at, on tiny models that learned to look for something."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden.mplug_cases import small_vocab, tiny_config
from mplug.config import FusionEncoderConfig, TextDecoderConfig
from mplug.explain import explain_match, explain_words
from mplug.layers import CrossLayer
from mplug.reranking import RerankModel
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.text_decoder import TextDecoder

SIDE, WIDTH = 4, 48
CELLS = SIDE * SIDE
TEXT = torch.tensor([[101, 7, 8, 102]])
CAT, DOG = 20, 21


def random_pictures(count: int, generator: torch.Generator) -> Tensor:
    """image_tokens (count, 1 + cells, width) in which nothing is to be seen."""
    return 0.5 * torch.randn(count, 1 + CELLS, WIDTH, generator=generator)


@functools.cache
def patterns() -> Tensor:
    return F.normalize(torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(9)), dim=-1) * 8


def plant(image: Tensor, cell: int, pattern: int) -> None:
    image[1 + cell] += patterns()[pattern]


def train(module: nn.Module, loss: Callable[[], Tensor], steps: int) -> None:
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(loss())
        optimizer.step()
    module.zero_grad()
    module.eval()


@functools.cache
def matcher(layers: int = 3, stride: int = 3, only: int | None = None) -> RerankModel:
    """Says "matches" where pattern 0 is somewhere in the picture; `only` one layer lets the picture in, if wanted."""
    torch.manual_seed(0)
    fusion = FusionEncoderConfig(
        hidden=WIDTH, layers=layers, stride_layer=stride, heads=4, ffn=64, memory_width=WIDTH, eps=1e-6
    )
    model = RerankModel(
        tiny_config(fusion_encoder=fusion), WordPieceTokenizer(small_vocab(130), max_length=25)
    )
    for number, layer in enumerate(model.fusion_encoder.layers):
        if only not in (None, number):
            assert isinstance(layer, CrossLayer)
            nn.init.zeros_(layer.cross_attention.output.requires_grad_(False).weight)
    generator = torch.Generator().manual_seed(1)

    def loss() -> Tensor:
        images, labels = random_pictures(32, generator), torch.arange(32) % 2
        for number in range(32):
            plant(images[number], int(torch.randint(CELLS, (1,), generator=generator)), 1 - number % 2)
        ids = TEXT.expand(32, -1)
        return F.cross_entropy(model.itm_logits(images, ids, ids != 0), labels)

    train(model, loss, 120)
    return model


@functools.cache
def namer() -> TextDecoder:
    """Says "cat" for pattern 0, then "dog" for pattern 1, and another word for what is not in the picture."""
    torch.manual_seed(0)
    decoder = TextDecoder(
        TextDecoderConfig(
            vocab_size=130,
            hidden=WIDTH,
            layers=2,
            heads=4,
            ffn=64,
            positions=16,
            memory_width=WIDTH,
            eps=1e-6,
        )
    )
    generator = torch.Generator().manual_seed(1)

    def loss() -> Tensor:
        images, ids = random_pictures(32, generator), torch.full((32, 4), 102)
        ids[:, 0] = 101
        for number in range(32):
            cells = torch.randperm(CELLS, generator=generator)
            for place, word in enumerate((CAT, DOG)):
                there = int(torch.randint(3, (1,), generator=generator)) > 0
                if there:
                    plant(images[number], int(cells[place]), place)
                ids[number, 1 + place] = word if there else 30
        logits = decoder(ids[:, :-1], images)
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())

    train(decoder, loss, 150)
    return decoder


def strongest(heat: Tensor) -> int:
    assert heat.shape == (SIDE, SIDE)
    assert float(heat.min()) >= 0
    assert float(heat.max()) == 1
    return int(heat.argmax())


@pytest.mark.parametrize(
    ("layers", "stride", "only", "layer"),
    [
        (1, 1, None, None),
        # A decision need not lean on every layer; where one alone lets the picture in, it must be that one.
        (3, 3, 0, 0),
        (3, 3, 1, None),
        (3, 3, 2, 2),
        (2, 1, 1, 1),  # connected
    ],
)
def test_a_match_looked_at_the_planted_patch(
    layers: int, stride: int, only: int | None, layer: int | None
) -> None:
    model, generator = matcher(layers, stride, only), torch.Generator().manual_seed(77)
    found = 0
    for cell in range(CELLS):
        images = random_pictures(1, generator)
        plant(images[0], cell, 0)
        assert float(model.itm_scores(images, TEXT, TEXT != 0).detach()) > 0.9, "it learned what to look for"
        found += strongest(explain_match(model, images, TEXT, layer=layer)) == cell
    assert found >= CELLS - 3, "chance would find one"


def test_each_word_looked_at_its_own_patch() -> None:
    decoder, generator = namer(), torch.Generator().manual_seed(77)
    found = []
    for cell in range(CELLS):
        other = (cell + 5) % CELLS
        images = random_pictures(1, generator)
        plant(images[0], cell, 0)
        plant(images[0], other, 1)
        ids = torch.tensor([[101, CAT, DOG, 102]])
        assert decoder(ids, images).argmax(-1)[0, :2].tolist() == [CAT, DOG], "it learned what to say"
        maps = explain_words(decoder, images, ids, words=[1, 2])
        found += [strongest(maps[0]) == cell, strongest(maps[1]) == other]
    assert sum(found) >= 2 * CELLS - 3


def test_only_the_picture_of_an_answers_memory_is_mapped() -> None:
    memory = random_pictures(1, torch.Generator().manual_seed(3))
    with_question = torch.cat([memory, torch.randn(1, 5, WIDTH)], dim=1)
    ids = torch.tensor([[101, CAT, 102]])
    maps = explain_words(namer(), with_question, ids, image_tokens=1 + CELLS)
    assert maps.shape == (2, SIDE, SIDE), "one for every word behind [CLS]"
    with pytest.raises(ValueError, match="22 image_tokens are no token for the picture and a square"):
        explain_words(namer(), with_question, ids)


def test_explaining_works_where_models_serve_and_leaves_no_trace() -> None:
    model = matcher()
    with torch.inference_mode():
        images = random_pictures(1, torch.Generator().manual_seed(3))
        plant(images[0], 6, 0)
        scores = model.itm_scores(images, TEXT, TEXT != 0)
        ids = TEXT.clone()
        heat = explain_match(model, images, ids)
        assert torch.equal(model.itm_scores(images, TEXT, TEXT != 0), scores)
        words = explain_words(namer(), images, torch.tensor([[101, CAT, 102]]))
    assert strongest(heat) == 6
    assert strongest(words[0]) == 6
    assert not heat.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert {type(layer).__name__ for layer in model.fusion_encoder.layers} == {"CrossLayer"}
    assert not any("Watched" in type(module).__name__ for module in model.modules())


def test_a_word_of_the_text_has_a_map_of_its_own() -> None:
    images = random_pictures(1, torch.Generator().manual_seed(3))
    plant(images[0], 6, 0)
    whole = explain_match(matcher(), images, TEXT, layer=1)
    parts = [explain_match(matcher(), images, TEXT, layer=1, word=word) for word in range(4)]
    assert all(part.shape == whole.shape for part in parts)
    # The last layer hands on [CLS] alone, so no other word can have spoken there.
    assert float(explain_match(matcher(), images, TEXT, layer=2, word=1).max()) == 0
    assert float(explain_match(matcher(), images, TEXT, layer=2, word=0).max()) == 1


@pytest.mark.parametrize(
    ("tokens", "ids", "options", "message"),
    [
        (17, TEXT, {"layer": 3}, "layer is 3; there are those from 0 to 2"),
        (17, TEXT, {"layer": -1}, "layer is -1; there are those from 0 to 2"),
        (17, TEXT, {"word": 4}, "word is 4; there are those from 0 to 3"),
        (17, TEXT.expand(2, -1), {}, "one picture and one text are explained at a time, not 1 and 2"),
        (1, TEXT, {}, "1 image_tokens are no token for the picture and a square of cells"),
        (24, TEXT, {}, "24 image_tokens are no token for the picture and a square of cells"),
    ],
)
def test_what_cannot_be_explained_says_why(
    tokens: int, ids: Tensor, options: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        explain_match(matcher(), torch.randn(1, tokens, WIDTH), ids, **options)


def test_the_word_before_the_first_cannot_be_explained() -> None:
    with pytest.raises(ValueError, match="word is 0; there are those from 1 to 2"):
        explain_words(namer(), torch.randn(1, 17, WIDTH), torch.tensor([[101, CAT, 102]]), words=[0])


def test_pieces_of_one_word_are_explained_together() -> None:
    decoder, image = namer(), random_pictures(1, torch.Generator().manual_seed(5))
    plant(image[0], 6, 0)
    plant(image[0], 13, 1)
    ids = torch.tensor([[101, CAT, DOG, 102]])
    cat, dog, both = explain_words(decoder, image, ids, words=[1, [2], (1, 2)])
    assert (strongest(cat), strongest(dog)) == (6, 13)
    assert min(float(both.flatten()[6]), float(both.flatten()[13])) > 0.2
    assert float(cat.flatten()[13]) < 0.2, "the other word's cell is not its own"
