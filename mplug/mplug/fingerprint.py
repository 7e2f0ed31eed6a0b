"""The embedding fingerprint: which models make interchangeable vectors.

It covers the tensors between pixels or text and the joint space, the vocabulary and the preprocessing.
It does not depend on heads that vectors never pass (decoder, fusion, ITM, temperature), on names and
licences, nor on how and in which order the file stores the tensors.

int8 folders are hashed after widening: their vectors differ a little from those of the float32 folder they
were made from, and so does their fingerprint. A ModelScope folder loaded with the other vision library has
another fingerprint too, although its vectors agree within 1e-5.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mplug.packed_linear import FrozenLinear
from mplug.preprocess import PreprocessConfig

if TYPE_CHECKING:
    from mplug.retrieval import RetrievalModel

EMBEDDING_PARTS = ("image_encoder.", "text_encoder.", "image_proj.", "text_proj.")


def embedding_fingerprint(model: RetrievalModel) -> str:
    """Return the sha256, in hex, of what makes this model's vectors."""
    tensors = {key: t for key, t in model.state_dict().items() if key.startswith(EMBEDDING_PARTS)}
    # The same tensors make other vectors with other heads, epsilons or padding.
    shape = {
        "image_encoder": asdict(model.config.image_encoder),
        "text_encoder": {**asdict(model.config.text_encoder), "dropout": None},
    }
    text = {
        "max_length": model.tokenizer.max_length,
        "lower_case": model.tokenizer.lower_case,
        "vocab": model.tokenizer.vocab,
    }
    return fingerprint(tensors, model.preprocess, text, shape)


def fingerprint(
    tensors: Mapping[str, Tensor],
    preprocess: PreprocessConfig | None,
    text: Mapping[str, Any],
    shape: Mapping[str, Any],
) -> str:
    """Hash tensors by name, and settings as sorted JSON.

    Args:
        tensors: by name; floats are hashed as float32, so storage formats do not matter.
        preprocess: what happens to pixels; None where there are none.
        text: what happens to text; JSON values.
        shape: what the tensors do not say of the model; JSON values.
    """
    digest = hashlib.sha256()
    for settings in (asdict(preprocess) if preprocess else None, text, shape):
        digest.update(json.dumps(settings, sort_keys=True, ensure_ascii=False).encode())
    for part in _tensor_parts(tensors):
        digest.update(part)
    return digest.hexdigest()


def held_tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's tensors as they are held, by the names of the module that was not frozen.

    Unlike those of `state_dict`, quantized matrices are not widened, so nothing is copied.
    """
    tensors = {}
    for path, part in module.named_modules():
        names = {"stored": "weight"} if isinstance(part, FrozenLinear) else {}
        own = chain(part.named_parameters(path, recurse=False), part.named_buffers(path, recurse=False))
        for key, tensor in own:
            before, _, name = key.rpartition(".")
            tensors[f"{before}.{names.get(name, name)}"] = tensor
    return tensors


def _tensor_parts(tensors: Mapping[str, Tensor]) -> Iterable[bytes | memoryview]:
    for key in sorted(tensors):
        if key.endswith("num_batches_tracked"):
            continue
        tensor = tensors[key].detach().cpu()
        if tensor.is_mkldnn:
            tensor = tensor.to_dense()
        if tensor.is_floating_point():
            tensor = tensor.to(torch.float32)
        yield f"{key} {list(tensor.shape)} {tensor.dtype}".encode()
        yield tensor.contiguous().numpy().reshape(-1).data
