"""Transformer layers for inference alone: only the rows that are wanted, in the form that costs least.

The modules are those of `mplug.layers`; what changes is how they are run. Nothing here is differentiable, and dropout
is left out. `x_CLD` are the text's rows of C pairs, `image_CND` their pictures.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mplug.layers import Attention, BertLayer, CrossLayer
from mplug_kernels import absorbed, cached
from mplug_kernels.dispatch import Form, Problem, choose
from mplug_kernels.rates import Rates
from mplug_kernels.types import CrossWeights

QueryKeyValue = tuple[Tensor, Tensor, Tensor]
"""Projected rows (C, N, D), not yet split into heads."""


def cross_weights(attention: Attention) -> CrossWeights:
    """An attention module's projections as `mplug_kernels` takes them."""
    return CrossWeights(
        query_DD=attention.query.weight,
        query_bias_D=attention.query.bias,
        key_DM=attention.key.weight,
        key_bias_D=attention.key.bias,
        value_DM=attention.value.weight,
        value_bias_D=attention.value.bias,
        num_heads=attention.num_heads,
    )


def attend_to_itself(layer: CrossLayer, x_CLD: Tensor, rows: int) -> Tensor:
    """Self-attention and norm of the first `rows` rows: (C, rows, D)."""
    wanted = x_CLD[:, :rows]
    normed: Tensor = layer.attention_norm(layer.attention(wanted, memory_BND=x_CLD).add_(wanted))
    return normed


def look(
    attention: Attention,
    x_CLD: Tensor,
    memory_CND: Tensor,
    machine: Rates,
    *,
    folded_1HLM: Tensor | None = None,
) -> Tensor:
    """Cross-attention in the cheaper form.

    Args:
        attention: any of which the memory is not x itself.
        x_CLD: queries (C, L, D), or (1, L, D) where all memories are asked the same.
        memory_CND: (C, N, D).
        machine: decides the form.
        folded_1HLM: what `absorbed.fold_queries` made of x already.

    Returns:
        (C, L, D), after the output projection.
    """
    weights = cross_weights(attention)
    if form(x_CLD.shape[1], memory_CND, weights, machine) is Form.ABSORBED:
        folded = absorbed.fold_queries(x_CLD, weights) if folded_1HLM is None else folded_1HLM
        context_CLD = absorbed.attend_folded(folded, memory_CND, weights)
    else:
        every_CLD = x_CLD.expand(memory_CND.shape[0], -1, -1)
        context_CLD = cached.attend(every_CLD, cached.project(memory_CND, weights), weights)
    output_CLD: Tensor = attention.output(context_CLD)
    return output_CLD


def look_at_cache(attention: Attention, x_CLD: Tensor, key_values: cached.KeyValues) -> Tensor:
    """The same with keys and values that are there already."""
    every_CLD = x_CLD.expand(key_values.key_BHNK.shape[0], -1, -1)
    output_CLD: Tensor = attention.output(cached.attend(every_CLD, key_values, cross_weights(attention)))
    return output_CLD


def form(rows: int, memory_CND: Tensor, weights: CrossWeights, machine: Rates, *, steps: int = 1) -> Form:
    """The cheapest form for `rows` queries to each memory, asked `steps` times."""
    count, tokens, memory_width = memory_CND.shape
    problem = Problem(
        images=count,
        new_tokens=rows,
        visual_tokens=tokens,
        width=weights.key_DM.shape[0],
        memory_width=memory_width,
        heads=weights.num_heads,
        steps=steps,
        dtype=memory_CND.dtype,
    )
    return choose(problem, machine)


def feed_forward(layer: BertLayer | CrossLayer, x_CLD: Tensor) -> Tensor:
    """Feed-forward, residual, norm."""
    block = layer.feed_forward
    # In place: what lies between the two products is the largest tensor of a layer.
    inner = torch.ops.aten.gelu_(block.expand(x_CLD))
    output: Tensor = layer.feed_forward_norm(block.contract(inner).add_(x_CLD))
    return output


def connect_rows(layer: BertLayer, image_CND: Tensor, x_CLD: Tensor, rows: int, machine: Rates) -> Tensor:
    """A connected layer behind which the picture is not looked at: the first `rows` rows of the text alone."""
    joint_CMD = torch.cat([image_CND, x_CLD], dim=1)
    wanted = x_CLD[:, :rows]
    normed = layer.attention_norm(look(layer.attention, wanted, joint_CMD, machine).add_(wanted))
    return feed_forward(layer, normed)


def connect(
    layer: BertLayer, image_CND: Tensor, x_CLD: Tensor, *, pairs: int, projected: QueryKeyValue | None = None
) -> tuple[Tensor, Tensor]:
    """A whole connected layer: image and text as one sequence, the picture's part added to the picture.

    Args:
        layer: of the fusion encoder.
        image_CND: left as it is.
        x_CLD: the text's rows.
        pairs: how many pairs are worked on at a time.
        projected: what `project` made of image_CND; None = made here.

    Returns:
        The moved picture (C, N, D) and the text's rows (C, L, D).
    """
    moved_CND, text_CLD = torch.empty_like(image_CND), torch.empty_like(x_CLD)
    for start in range(0, image_CND.shape[0], pairs):
        part = slice(start, start + pairs)
        of_image = None if projected is None else tuple(tensor[part] for tensor in projected)
        joint_CMD = torch.cat([image_CND[part], x_CLD[part]], dim=1)
        if of_image is None:
            joint_CMD = _bert_layer(layer, joint_CMD, project(layer.attention, joint_CMD))
        else:
            of_text = project(layer.attention, x_CLD[part])
            both = [torch.cat(pair, dim=1) for pair in zip(of_image, of_text, strict=True)]
            joint_CMD = _bert_layer(layer, joint_CMD, (both[0], both[1], both[2]))
        count = image_CND.shape[1]
        torch.add(image_CND[part], joint_CMD[:, :count], out=moved_CND[part])
        text_CLD[part] = joint_CMD[:, count:]
    return moved_CND, text_CLD


def project(attention: Attention, x_CND: Tensor) -> QueryKeyValue:
    """Queries, keys and values of self-attention: of some rows now, of others at another time."""
    return attention.query(x_CND), attention.key(x_CND), attention.value(x_CND)


def _bert_layer(layer: BertLayer, x_CMD: Tensor, projected: QueryKeyValue) -> Tensor:
    heads = layer.attention.num_heads
    q, k, v = (tensor.view(*tensor.shape[:2], heads, -1).transpose(1, 2) for tensor in projected)
    context_CMD = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return feed_forward(layer, layer.attention_norm(layer.attention.output(context_CMD).add_(x_CMD)))
