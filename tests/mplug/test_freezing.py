"""Frozen models: the numbers they gave before, their weights held once, nothing changed behind their back."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from golden.mplug_cases import some_pixels, some_text, tiny, tiny_model
from mplug import open_clip_model
from mplug.captioning import CaptionModel
from mplug.explain import explain_match
from mplug.fingerprint import fingerprint, held_tensors
from mplug.freezing import freeze
from mplug.itm_scoring import ItmScorer
from mplug.packed_linear import FrozenLinear, PackedLinear, can_pack
from mplug.reranking import RerankModel
from mplug.retrieval import RetrievalModel
from mplug.vqa import VqaModel

packs = pytest.mark.skipif(not can_pack("cpu", torch.float32), reason="this torch has no oneDNN")
IDS, MASK = some_text()


def retrieval(model: RetrievalModel) -> Tensor:
    return torch.cat([model.embed_images(some_pixels()), model.embed_texts(IDS, MASK)])


def rerank(model: RerankModel) -> Tensor:
    images = model.encode_image(some_pixels())
    scored = ItmScorer(model).score(IDS[:1], images)
    return torch.cat([model.itm_scores(images, IDS, MASK), scored])


def caption(model: CaptionModel) -> Tensor:
    config = model.generation_config(beam_size=3, max_length=8, num_results=3)
    return torch.tensor(
        [one.hypothesis.score for texts in model.caption(some_pixels(), config) for one in texts]
    )


def vqa(model: VqaModel) -> Tensor:
    state = model.start_decoding(model.encode_image(some_pixels()), IDS, MASK)
    return model.text_decoder.step(torch.tensor([[101, 7], [101, 9]]), state)


TASKS: dict[str, tuple[Callable[[], nn.Module], Callable[[Any], Tensor]]] = {
    "retrieval": (tiny_model, retrieval),
    "rerank": (lambda: tiny(RerankModel), rerank),
    "caption": (lambda: tiny(CaptionModel), caption),
    "vqa": (lambda: tiny(VqaModel), vqa),
}


@pytest.mark.parametrize("task", TASKS)
def test_a_frozen_model_gives_the_numbers_it_gave_before(task: str) -> None:
    make, run = TASKS[task]
    with torch.inference_mode():
        wanted = run(make())
        found = run(freeze(make()))
    assert torch.allclose(found, wanted, atol=1e-5 * float(wanted.abs().max()))


@packs
@pytest.mark.parametrize("task", TASKS)
def test_its_state_is_bit_for_bit_what_it_was(task: str) -> None:
    make, _ = TASKS[task]
    model, frozen = make(), freeze(make())

    state = frozen.state_dict()

    assert any(isinstance(module, FrozenLinear) for module in frozen.modules())
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    count = sum(parameter.numel() for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in frozen.parameters()) == count


@packs
def test_the_original_weights_are_let_go() -> None:
    model = tiny(CaptionModel)
    weights = [weakref.ref(m.weight) for m in model.modules() if type(m) is nn.Linear]
    freeze(model)
    gc.collect()
    assert len(weights) > 20
    assert not any(weight() is not None for weight in weights)


@packs
def test_the_original_weights_are_let_go_one_by_one() -> None:
    alive: list[int] = []

    class Last(nn.Module):
        def named_children(self) -> Iterator[tuple[str, nn.Module]]:
            alive.append(sum(weight() is not None for weight in weights))
            return super().named_children()

    layers = nn.ModuleList(nn.Sequential(nn.Linear(8, 8)) for _ in range(4))
    weights = [weakref.ref(m.weight) for m in layers.modules() if isinstance(m, nn.Linear)]
    freeze(nn.Sequential(layers, Last()))

    assert alive[-1] == 0, "when the last module has its turn, none of the originals is left"


@packs
def test_decoding_shares_the_frozen_weights() -> None:
    layer = nn.Linear(8, 12)
    frozen = FrozenLinear(layer)
    ((weight, bias),) = PackedLinear.of(frozen)._parts
    assert weight is frozen.stored
    assert bias is frozen.bias


def test_what_reranking_reads_as_matrices_stays() -> None:
    model = freeze(tiny(RerankModel))
    kept = [name for name, module in model.named_modules() if type(module) is nn.Linear]
    if can_pack("cpu", torch.float32):
        # Layers 0, 1 and 3 are asymmetric; layer 2 is connected and not the last.
        assert kept == [
            f"fusion_encoder.layers.{number}.cross_attention.{part}"
            for number in (0, 1, 3)
            for part in ("query", "key", "value")
        ]


@packs
def test_nothing_can_be_loaded_into_a_frozen_model() -> None:
    model = tiny_model()
    frozen = freeze(tiny_model(seed=1))
    with pytest.raises(RuntimeError, match=r"image_proj\.weight is frozen; load the weights first"):
        frozen.load_state_dict(model.state_dict())


def test_freezing_twice_changes_nothing() -> None:
    frozen = freeze(tiny_model())
    modules = list(frozen.modules())
    assert list(freeze(frozen).modules()) == modules


def test_a_type_that_has_no_layout_stays_as_it_is() -> None:
    model = freeze(tiny_model().double())
    assert not any(isinstance(module, FrozenLinear) for module in model.modules())


@packs
def test_a_frozen_model_can_change_its_type() -> None:
    frozen = freeze(tiny_model())
    wanted = retrieval(tiny_model().to(torch.bfloat16))
    with torch.inference_mode():
        found = retrieval(frozen.to(torch.bfloat16))
    assert torch.allclose(found, wanted, atol=0.02)


@packs
def test_a_type_without_a_layout_is_still_computed() -> None:
    frozen = freeze(tiny_model()).double()
    assert frozen.state_dict()["image_proj.weight"].dtype == torch.float64
    with torch.inference_mode():
        assert torch.allclose(retrieval(frozen), retrieval(tiny_model()), atol=1e-5)


def test_gradients_pass_through_to_the_input() -> None:
    layer = nn.Linear(8, 4, bias=False)
    x = torch.randn(3, 8, requires_grad=True)
    FrozenLinear(layer)(x).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, layer.weight.sum(0).expand(3, -1))


def test_a_frozen_model_can_be_explained() -> None:
    model, frozen = tiny(RerankModel), tiny(RerankModel)
    with torch.inference_mode():
        freeze(frozen)
        images = model.encode_image(some_pixels(1))
        for layer in range(4):
            wanted = explain_match(model, images, IDS[:1], layer=layer)
            assert torch.allclose(explain_match(frozen, images, IDS[:1], layer=layer), wanted, atol=1e-4)


@torch.inference_mode()
def test_open_clip_towers_can_be_frozen() -> None:
    model = open_clip_model.load("open_clip:RN50-quickgelu", device=torch.device("cpu"), dtype=torch.float32)
    pixels = some_pixels(1, 224)
    tokens = model.tokenizer.encode("a dog").ids
    ids = torch.from_numpy(tokens)[None]
    wanted = torch.cat([model.embed_images(pixels), model.embed_texts(ids, ids != 0)])
    freeze(model)
    found = torch.cat([model.embed_images(pixels), model.embed_texts(ids, ids != 0)])
    assert torch.allclose(found, wanted, atol=1e-5)


def test_what_a_frozen_model_holds_has_the_fingerprint_it_had_before() -> None:
    model = tiny(CaptionModel)
    before = fingerprint(held_tensors(model), None, {}, {})
    assert (
        held_tensors(model).keys()
        == dict(model.named_parameters()).keys() | dict(model.named_buffers()).keys()
    )
    freeze(model)
    assert fingerprint(held_tensors(model), None, {}, {}) == before
    held = next(part for part in model.modules() if isinstance(part, FrozenLinear) and part.bias is not None)
    assert held.bias is not None
    held.bias.data.add_(1e-3)
    assert fingerprint(held_tensors(model), None, {}, {}) != before
