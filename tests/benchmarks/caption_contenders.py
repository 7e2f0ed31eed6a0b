"""What captioning is measured against: the reference's way, BLIP, and a bare pass over the weights."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mplug.captioning import CaptionModel
from mplug.config import ImageEncoderConfig, MplugConfig, TextDecoderConfig, TextEncoderConfig
from mplug.generation import Finished, GenerationConfig
from mplug.generation.beam import BeamSearch
from mplug.preprocess import PreprocessConfig
from mplug.text.tokenizer import WordPieceTokenizer

SIDE = 384
BEAMS = 5
VOCABULARY = 30522


def make_model() -> CaptionModel:
    """mPLUG-base's shapes, random weights."""
    config = MplugConfig(
        name="mPLUG-base shapes",
        image_encoder=ImageEncoderConfig(
            backbone="timm:vit_base_patch16_clip_quickgelu_224",
            backbone_options={"img_size": SIDE},
            width=768,
        ),
        text_encoder=TextEncoderConfig(vocab_size=VOCABULARY, hidden=768, layers=6, heads=12, ffn=3072),
        text_decoder=TextDecoderConfig(
            vocab_size=VOCABULARY, hidden=768, layers=12, heads=12, ffn=3072, memory_width=768
        ),
        preprocess=PreprocessConfig(image_size=SIDE),
    )
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]"}
    vocab = [special.get(number, f"piece{number}") for number in range(VOCABULARY)]
    torch.manual_seed(0)
    model = CaptionModel(config, WordPieceTokenizer(vocab, max_length=25)).eval()
    # Larger than at the start of training, so that no two beams are as good as each other.
    for parameter in model.text_decoder.parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.05)
    return model


def beam_config(model: CaptionModel, tokens: int) -> GenerationConfig:
    """Beam search for so many tokens, neither more nor fewer."""
    return model.generation_config(beam_size=BEAMS, min_length=tokens, max_length=tokens)


def like_the_reference(model: CaptionModel, pixels: Tensor, tokens: int) -> tuple[int, ...]:
    """ModelScope's loop: its beam search, over a decoder that keeps nothing between steps."""
    config = beam_config(model, tokens)
    decoder = model.text_decoder
    memory = model.encode_image(pixels).repeat(BEAMS, 1, 1)
    search = BeamSearch(config, decoder.eos_id, [0], [[decoder.config.bos_id]])
    ids = torch.full((BEAMS, 1), decoder.config.bos_id)
    while True:
        logits = decoder(ids, memory)[:, -1]
        # At the first step the other beams start from minus infinity.
        move = search.advance(logits if ids.shape[1] > 1 else logits[:1])
        for event in move.events:
            if isinstance(event, Finished):
                return event.hypotheses[0].ids
        ids = torch.cat([ids[move.rows], torch.tensor(move.ids)[:, None]], dim=1)


def decoder_matrices(model: CaptionModel) -> list[Tensor]:
    """What a step of decoding multiplies with."""
    # Keys and values of cross-attention are computed once a picture, not once a step.
    once = ("cross_attention.key", "cross_attention.value")
    decoder = model.text_decoder
    linear = [
        m.weight for n, m in decoder.named_modules() if isinstance(m, nn.Linear) and not n.endswith(once)
    ]
    return [*linear, decoder.embeddings.word.weight]


def pass_over(matrices: list[Tensor], steps: int) -> None:
    """One row times every matrix, step after step."""
    rows = {matrix.shape[1]: torch.ones(1, matrix.shape[1]) for matrix in matrices}
    for _ in range(steps):
        for matrix in matrices:
            F.linear(rows[matrix.shape[1]], matrix)


# Any: transformers has no part in the project but this one, and is not there for the type checkers.
def blip_captioner(tokens: int) -> Callable[[], Any]:
    """Captioning by a BLIP-base of the same tower, decoder and vocabulary, with random weights."""
    transformers: Any = importlib.import_module("transformers")
    config = transformers.BlipConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "bos_token_id": 101,
            "sep_token_id": 102,
        },
        vision_config={"image_size": SIDE, "patch_size": 16},
    )
    torch.manual_seed(0)
    model = transformers.BlipForConditionalGeneration(config).eval()
    pixels = torch.rand(1, 3, SIDE, SIDE)
    # transformers counts the starting token and the text's [SEP], which BLIP cuts off, too.
    settings = {"num_beams": BEAMS, "min_new_tokens": tokens, "max_new_tokens": tokens, "use_cache": True}

    def run() -> Any:
        with torch.inference_mode():
            return model.generate(pixel_values=pixels, **settings)

    return run
