"""What text generation is measured against: transformers' GPT-2, and the references' own loops."""

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mplug.generation import Finished, GenerationConfig, generate
from mplug.generation.beam import BeamSearch
from mplug.gpt3 import Gpt3Config, Gpt3Decoder
from mplug.layers import Attention
from mplug.palm.model import PalmModel
from mplug.plug.config import BOS_ID
from mplug.plug.model import PlugModel
from mplug.prenorm import PreNormCrossLayer, PreNormLayer

PLUG_SOURCE = 512
"""Tokens to which the reference's pipeline pads every source."""


READ_BYTES = 2**28
_NUMBERS = torch.zeros(READ_BYTES // 4)


def spread(model: nn.Module, std: float = 0.05) -> None:
    """Random matrices, larger than at the start of training, so that no two tokens are as good as each other."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=std)


def write(decoder: Gpt3Decoder, prompt: Sequence[int], tokens: int) -> tuple[int, ...]:
    """Ours: so many tokens behind a prompt, the likeliest each time."""
    config = GenerationConfig(method="greedy", rules="gpt3", min_length=tokens, max_length=tokens)
    (found,) = generate(decoder, lambda items: decoder.start(len(items)), [prompt], config)
    return found[0].ids


def gpt3_without_cache(decoder: Gpt3Decoder, prompt: Sequence[int], tokens: int) -> tuple[int, ...]:
    """The reference's plain GPT-3: the whole text read again for every token."""
    ids = torch.tensor([list(prompt)])
    for _ in range(tokens):
        logits_V = decoder(ids)[0, -1]
        logits_V[decoder.eos_id] = -torch.inf
        ids = torch.cat([ids, logits_V.argmax().view(1, 1)], dim=1)
    return tuple(ids[0].tolist())


# Any: transformers has no part in the project but this one, and is not there for the type checkers.
def gpt2(decoder: Gpt3Decoder, config: Gpt3Config) -> Any:
    """transformers' GPT-2 with a decoder's weights."""
    transformers: Any = importlib.import_module("transformers")
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.positions,
            n_embd=config.hidden,
            n_layer=config.layers,
            n_head=config.heads,
            n_inner=config.ffn,
            activation_function="gelu",
            layer_norm_epsilon=config.eps,
            bos_token_id=config.eod_id,
            eos_token_id=config.eod_id,
        )
    ).eval()
    theirs.load_state_dict(_gpt2_state(decoder), strict=False)
    return theirs


def gpt2_writer(theirs: Any, prompt: Sequence[int], tokens: int) -> Callable[[], tuple[int, ...]]:
    """Greedy, with its cache."""
    ids = torch.tensor([list(prompt)])
    settings = {"do_sample": False, "min_new_tokens": tokens, "max_new_tokens": tokens, "pad_token_id": 0}

    def run() -> tuple[int, ...]:
        with torch.inference_mode():
            found: list[int] = theirs.generate(ids, attention_mask=torch.ones_like(ids), **settings)[
                0
            ].tolist()
        return tuple(found)

    return run


def _gpt2_state(decoder: Gpt3Decoder) -> dict[str, Tensor]:
    words = decoder.embeddings.word.weight
    state = {
        "transformer.wte.weight": words,
        "lm_head.weight": words,
        "transformer.wpe.weight": decoder.embeddings.position.weight,
    }
    state |= {f"transformer.ln_f.{name}": value for name, value in decoder.norm.named_parameters()}
    for number, layer in enumerate(cast(Sequence[PreNormLayer], decoder.layers)):
        at, attention, ffn = f"transformer.h.{number}", layer.attention, layer.feed_forward
        three = (attention.query, attention.key, attention.value)
        # Its "Conv1D" has matrices (inputs, outputs).
        state[f"{at}.attn.c_attn.weight"] = torch.cat([each.weight for each in three]).T
        state[f"{at}.attn.c_attn.bias"] = torch.cat([each.bias for each in three])
        for name, linear in (
            ("attn.c_proj", attention.output),
            ("mlp.c_fc", ffn.expand),
            ("mlp.c_proj", ffn.contract),
        ):
            state[f"{at}.{name}.weight"], state[f"{at}.{name}.bias"] = linear.weight.T, linear.bias
        for name, norm in (("ln_1", layer.attention_norm), ("ln_2", layer.feed_forward_norm)):
            state[f"{at}.{name}.weight"], state[f"{at}.{name}.bias"] = norm.weight, norm.bias
    return state


def plug_like_the_reference(model: PlugModel, source: Sequence[int], tokens: int) -> tuple[int, ...]:
    """ModelScope's loop, choosing the likeliest: a source padded to 512, the whole text read again for every token."""
    padded_1N = torch.zeros(1, PLUG_SOURCE, dtype=torch.long)
    padded_1N[0, : len(source)] = torch.tensor(list(source))
    mask_1N = padded_1N != 0
    memory_1ND = model.encoder(padded_1N, mask_1N)
    ids = torch.tensor([[BOS_ID]])
    for _ in range(tokens):
        logits_V = model.decoder(ids, memory_1ND, memory_mask_BN=mask_1N)[0, -1]
        logits_V[model.decoder.eos_id] = -torch.inf
        ids = torch.cat([ids, logits_V.argmax().view(1, 1)], dim=1)
    return tuple(ids[0].tolist())


def write_plug(model: PlugModel, source: Sequence[int], tokens: int) -> tuple[int, ...]:
    """Ours: so many tokens, the likeliest each time."""
    config = GenerationConfig(method="greedy", min_length=tokens, max_length=tokens)
    source_1N = torch.tensor([list(source)])
    (found,) = generate(model.decoder, lambda _: model.start_decoding(source_1N), [[BOS_ID]], config)
    return found[0].ids


@dataclass(slots=True)
class _Cache:
    """What the reference's PALM keeps for one layer, for every beam."""

    memory_key: Tensor
    memory_value: Tensor
    key: Tensor | None = None
    value: Tensor | None = None

    def select(self, rows: Tensor) -> None:
        """Reorder, its memory included, as the reference does after every step."""
        assert self.key is not None
        assert self.value is not None
        self.memory_key, self.memory_value = self.memory_key[rows], self.memory_value[rows]
        self.key, self.value = self.key[rows], self.value[rows]


def palm_like_the_reference(model: PalmModel, source_1N: Tensor, config: GenerationConfig) -> tuple[int, ...]:
    """AliceMind's loop: memory tiled for every beam, keys and values kept, all of them reordered after every step."""
    decoder, beams = model.decoder, config.beam_size
    memory_BND = model.encode(source_1N)[0].repeat(beams, 1, 1)
    layers = cast(Sequence[PreNormCrossLayer], decoder.layers)
    caches = [
        _Cache(
            _heads(layer.cross_attention, layer.cross_attention.key(memory_BND)),
            _heads(layer.cross_attention, layer.cross_attention.value(memory_BND)),
        )
        for layer in layers
    ]
    search = BeamSearch(config, decoder.eos_id, [0], [[decoder.bos_id]])
    ids, step = torch.full((beams, 1), decoder.bos_id), 0
    while True:
        x_B1D = decoder._embed(ids, torch.tensor([step]))
        for layer, cache in zip(layers, caches, strict=True):
            x_B1D = _palm_layer(layer, x_B1D, cache)
        log_probs_BV = decoder.logits(decoder.norm(x_B1D))[:, -1].log_softmax(-1)
        # At the first step the other beams start from minus infinity.
        move = search.advance(log_probs_BV if step else log_probs_BV[:1])
        for event in move.events:
            if isinstance(event, Finished):
                return event.hypotheses[0].ids
        for cache in caches:
            cache.select(torch.tensor(move.rows))
        ids, step = torch.tensor(move.ids)[:, None], step + 1


def _palm_layer(layer: PreNormCrossLayer, x_B1D: Tensor, cache: _Cache) -> Tensor:
    own, cross = layer.attention, layer.cross_attention
    normed = layer.attention_norm(x_B1D)
    key, value = _heads(own, own.key(normed)), _heads(own, own.value(normed))
    cache.key = key if cache.key is None else torch.cat([cache.key, key], dim=2)
    cache.value = value if cache.value is None else torch.cat([cache.value, value], dim=2)
    x_B1D = x_B1D + _attend(own, normed, cache.key, cache.value)
    x_B1D = x_B1D + _attend(cross, layer.cross_attention_norm(x_B1D), cache.memory_key, cache.memory_value)
    ffn = layer.feed_forward
    inner = F.gelu(ffn.expand(layer.feed_forward_norm(x_B1D)), approximate="tanh")
    output: Tensor = x_B1D + ffn.contract(inner)
    return output


def _attend(attention: Attention, x_B1D: Tensor, key_BHTK: Tensor, value_BHTK: Tensor) -> Tensor:
    query_BH1K = _heads(attention, attention.query(x_B1D)) / math.sqrt(key_BHTK.shape[-1])
    weights_BH1T = (query_BH1K @ key_BHTK.transpose(2, 3)).softmax(-1)
    context: Tensor = attention.output((weights_BH1T @ value_BHTK).transpose(1, 2).flatten(2))
    return context


def _heads(attention: Attention, x_BLD: Tensor) -> Tensor:
    return x_BLD.view(*x_BLD.shape[:2], attention.num_heads, -1).transpose(1, 2)


def read_memory() -> Tensor:
    """Read `READ_BYTES`, as fast as the machine can."""
    return _NUMBERS.sum()
