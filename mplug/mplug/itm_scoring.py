"""Reranking without waste: one text against many pictures whose image_tokens are at hand.

Equal to `RerankModel.itm_scores` within rounding, but nothing is computed that no score depends on, or twice:

* the text is encoded once, without padding, and so is the first layer up to where it meets a picture;
* cross-attention takes the form that costs least (`mplug_kernels.dispatch`): for texts shorter than about 60 tokens the
  raw image_tokens are attended to, and no key or value of them is made;
* connected layers move the picture only where a later layer looks at it, a few pairs at a time, so that what lies
  between two matrix products stays in the processor's cache; what they need of the picture alone can be made once
  for several texts (`prepare_images`);
* of the last layer only the row of [CLS], which the head reads.

Candidates are scored in chunks under a byte budget; between two chunks a deadline is asked.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mplug import lean_layers
from mplug.layers import BertLayer, CrossLayer
from mplug.reranking import RerankModel
from mplug_kernels import absorbed, cached, rates
from mplug_kernels.dispatch import Form
from mplug_kernels.rates import Rates

MIB = 2**20
# A processor is fastest when the work at hand stays in its cache; a GPU, when there is much of it.
CHUNK_BYTES = {"cpu": 32 * MIB, "cuda": 1024 * MIB}
JOINT_BYTES = {"cpu": 16 * MIB, "cuda": 512 * MIB}

Images = Tensor | Sequence[Tensor]
"""image_tokens of C pictures, (C, N, D) or C times (N, D), of any float dtype."""


@dataclass(frozen=True, slots=True, eq=False)
class TextSide:
    """What of a text does not depend on the picture."""

    text_1LD: Tensor
    """The stream where it first meets a picture: behind self-attention and norm of layer 0."""
    folded_1HLM: Tensor
    """Its queries there, in the space of image_tokens (`absorbed.fold_queries`)."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageSide:
    """What of C pictures does not depend on the text."""

    image_CND: Tensor
    key_values: Mapping[int, cached.KeyValues] = field(default_factory=dict)
    """By asymmetric layer, where several texts make them worth while."""
    joint: lean_layers.QueryKeyValue | None = None
    """For the first connected layer; None = made when it is its turn."""


class ItmScorer:
    """Scores candidates for one text.

    Args:
        model: in evaluation mode; its weights may change between calls, not its device or dtype.
        chunk_bytes: about how much memory one chunk may take; None = 32 MiB on a CPU, 1 GiB on a GPU.
        machine: rates that decide the form of cross-attention; None = as measured on this machine, once.
    """

    def __init__(
        self, model: RerankModel, *, chunk_bytes: int | None = None, machine: Rates | None = None
    ) -> None:
        self.model = model
        kind = "cpu" if model.device.type == "cpu" else "cuda"
        self.chunk_bytes = chunk_bytes or CHUNK_BYTES[kind]
        self.joint_bytes = min(self.chunk_bytes, JOINT_BYTES[kind])
        self.rates = machine or rates.of_machine(model.device, model.dtype)

    def score(
        self,
        ids_1L: Tensor,
        images: Images,
        *,
        mask_1L: Tensor | None = None,
        deadline: Callable[[], bool] | None = None,
    ) -> Tensor:
        """Probability that each picture matches the text, until the time is up.

        Args:
            ids_1L: int64 (1, L), the text.
            images: the candidates, best first.
            mask_1L: bool (1, L), True = a real token, padding behind; None = no padding.
            deadline: asked before every chunk; once it says True, no further chunk is begun.

        Returns:
            float32 (scored,) on the CPU: of the first `scored` candidates; all of them unless the deadline came.

        Raises:
            ValueError: not one text, or padding that is not behind it.
        """
        text = self.prepare_text(ids_1L, mask_1L)
        scored = [torch.empty(0)]
        for part in self.chunks(images, text):
            if deadline is not None and deadline():
                break
            # To the CPU at once: on a GPU the chunk would not be done yet when the deadline is asked again.
            scored.append(self.score_chunk(text, self.prepare_images(images[part])).cpu())
        return torch.cat(scored)

    def chunks(self, images: Images, text: TextSide) -> list[slice]:
        """Slices of the candidates, of nearly equal length, none of more than about `chunk_bytes`."""
        if len(images) == 0:
            return []
        count, width = images[0].shape
        length = text.folded_1HLM.shape[2]
        config = self.model.fusion_encoder.config
        values = (
            count * width * (2 if config.connected_layers else 1)
        )  # these move the picture to a new place
        values += 2 * config.heads * length * width + length * (config.ffn + 4 * config.hidden)
        most = max(1, self.chunk_bytes // (values * self.model.dtype.itemsize))
        parts = -(-len(images) // most)
        edges = [len(images) * number // parts for number in range(parts + 1)]
        return [slice(start, stop) for start, stop in itertools.pairwise(edges)]

    @torch.inference_mode()
    def prepare_text(self, ids_1L: Tensor, mask_1L: Tensor | None = None) -> TextSide:
        """Everything of a text that pictures share; arguments and errors as in `score`."""
        ids_1L = _unpadded(ids_1L, mask_1L).to(self.model.device)
        text_1LD = self.model.encode_text(ids_1L, torch.ones_like(ids_1L, dtype=torch.bool))
        first = self._layers()[0]
        assert isinstance(first, CrossLayer), "layer 0 is asymmetric whatever the stride"
        text_1LD = lean_layers.attend_to_itself(first, text_1LD, self._rows(0, text_1LD))
        weights = lean_layers.cross_weights(first.cross_attention)
        return TextSide(text_1LD, absorbed.fold_queries(text_1LD, weights))

    @torch.inference_mode()
    def prepare_images(self, images: Images, *, texts: int = 1, length: int = 12) -> ImageSide:
        """Everything of pictures that texts can share.

        Args:
            images: of one chunk.
            texts: how many will be scored against them; for one alone, nothing is made ahead.
            length: about how long these are, in tokens.
        """
        image_CND = images if isinstance(images, Tensor) else torch.stack(list(images))
        image_CND = image_CND.to(device=self.model.device, dtype=self.model.dtype)
        key_values: dict[int, cached.KeyValues] = {}
        for number, layer in enumerate(self._layers() if texts > 1 else []):
            if isinstance(layer, BertLayer):
                wanted = not self._is_last(number)
                joint = lean_layers.project(layer.attention, image_CND) if wanted else None
                return ImageSide(image_CND, key_values, joint)
            weights = lean_layers.cross_weights(layer.cross_attention)
            rows = 1 if self._is_last(number) else length
            if lean_layers.form(rows, image_CND, weights, self.rates, steps=texts) is Form.CACHED:
                key_values[number] = cached.project(image_CND, weights)
        return ImageSide(image_CND, key_values)

    @torch.inference_mode()
    def score_chunk(self, text: TextSide, images: ImageSide) -> Tensor:
        """Probability that each of C pictures matches the text, float32 (C,)."""
        image_CND, x_CLD = images.image_CND, text.text_1LD
        for number, layer in enumerate(self._layers()):
            if isinstance(layer, CrossLayer):
                x_CLD = self._asymmetric(number, layer, x_CLD, image_CND, text, images)
            elif self._is_last(number):
                x_CLD = lean_layers.connect_rows(layer, image_CND, x_CLD, 1, self.rates)
            else:
                joint = images.joint if image_CND is images.image_CND else None
                pairs = self._pairs(layer, image_CND)
                image_CND, x_CLD = lean_layers.connect(layer, image_CND, x_CLD, pairs=pairs, projected=joint)
        logits_C2: Tensor = self.model.itm_head(x_CLD[:, 0])
        return logits_C2.float().softmax(-1)[:, 1]

    def _asymmetric(
        self,
        number: int,
        layer: CrossLayer,
        x_CLD: Tensor,
        image_CND: Tensor,
        text: TextSide,
        images: ImageSide,
    ) -> Tensor:
        if number > 0:
            x_CLD = lean_layers.attend_to_itself(layer, x_CLD, self._rows(number, x_CLD))
        attention = layer.cross_attention
        if number in images.key_values:
            crossed_CLD = lean_layers.look_at_cache(attention, x_CLD, images.key_values[number])
        else:
            folded = text.folded_1HLM if number == 0 else None
            crossed_CLD = lean_layers.look(attention, x_CLD, image_CND, self.rates, folded_1HLM=folded)
        return lean_layers.feed_forward(layer, layer.cross_attention_norm(crossed_CLD.add_(x_CLD)))

    def _layers(self) -> list[BertLayer | CrossLayer]:
        layers = []
        for layer in self.model.fusion_encoder.layers:
            assert isinstance(layer, BertLayer | CrossLayer)
            layers.append(layer)
        return layers

    def _is_last(self, number: int) -> bool:
        return number == len(self.model.fusion_encoder.layers) - 1

    def _rows(self, number: int, x_CLD: Tensor) -> int:
        # The head reads [CLS] of the last layer alone; every other layer is attended to as a whole.
        return 1 if self._is_last(number) else x_CLD.shape[1]

    def _pairs(self, layer: BertLayer, image_CND: Tensor) -> int:
        widest = layer.feed_forward.expand.out_features + 4 * image_CND.shape[2]
        return max(1, self.joint_bytes // (image_CND.shape[1] * widest * image_CND.dtype.itemsize))


def _unpadded(ids_1L: Tensor, mask_1L: Tensor | None) -> Tensor:
    if ids_1L.ndim != 2 or ids_1L.shape[0] != 1:
        raise ValueError(f"ids are {tuple(ids_1L.shape)}; candidates are scored for one text, (1, L)")
    if mask_1L is None:
        return ids_1L
    length = int(mask_1L.sum())
    if length == 0 or not mask_1L[0, :length].bool().all():
        raise ValueError("the text must have a token, and its padding must be behind it")
    return ids_1L[:, :length]
