"""Captioning with mPLUG-base's shapes against the reference's way of doing it, and against the least it could take."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.page import table
from benchmarks.rounds import MIN_ROUNDS, interleave
from mplug.captioning import CaptionModel
from mplug.config import ImageEncoderConfig, MplugConfig, TextDecoderConfig, TextEncoderConfig
from mplug.generation import Finished
from mplug.generation.beam import BeamSearch
from mplug.preprocess import PreprocessConfig
from mplug.text.tokenizer import WordPieceTokenizer

SIDE = 384
BEAMS = 5
TOKENS = 16
VOCABULARY = 30522
REFERENCE, OURS, FLOOR = (
    "the reference's way",
    "caption",
    "tower + one pass over the decoder's weights a step",
)
DECODE, PASSES = "caption from stored image tokens", "the passes alone"


def measure(rounds: int = MIN_ROUNDS, tokens: int = TOKENS) -> str:
    """The section's text."""
    model = _model()
    config = model.generation_config(beam_size=BEAMS, min_length=tokens, max_length=tokens)
    pixels = torch.randint(0, 256, (1, 3, SIDE, SIDE), dtype=torch.uint8)
    with torch.inference_mode():
        image_tokens = model.encode_image(pixels)
        matrices = _matrices(model)
        ours, theirs = (
            model.caption(pixels, config)[0][0].hypothesis,
            _like_the_reference(model, pixels, tokens),
        )
        assert ours.ids == theirs, "both ways give one caption"
        timings = interleave(
            {
                REFERENCE: lambda: _like_the_reference(model, pixels, tokens),
                OURS: lambda: model.caption(pixels, config),
                FLOOR: lambda: _passes(matrices, tokens, model.encode_image(pixels)),
                DECODE: lambda: model.caption(image_tokens, config),
                PASSES: lambda: _passes(matrices, tokens),
            },
            rounds,
        )
    rows = [
        (f"{OURS}: speed ÷ that of {REFERENCE}", str(timings.speedup(OURS, REFERENCE))),
        (f"{OURS}: time ÷ that of {FLOOR}", str(timings.speedup(FLOOR, OURS))),
        (f"{DECODE}: time ÷ that of {PASSES}", str(timings.speedup(PASSES, DECODE))),
    ]
    return (
        f"mPLUG-base's shapes (ViT-B/16 at {SIDE}, 12-layer decoder of width 768), random weights, float32, one "
        f"picture, {BEAMS} beams, {tokens} tokens, {torch.get_num_threads()} threads. The reference's way: no cache, "
        "the whole text read again at every step, five tiled beams, cross-attention's keys and values computed anew "
        "each time. A pass over the weights: one row times every matrix that a step needs. Ratio of minima (of "
        f"medians) of {rounds} interleaved rounds; both ways give the same ids.\n\n"
        + table(("", "ratio"), rows)
    )


def _model() -> CaptionModel:
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


def _like_the_reference(model: CaptionModel, pixels: Tensor, tokens: int) -> tuple[int, ...]:
    """ModelScope's loop: its beam search, over a decoder that keeps nothing between steps."""
    config = model.generation_config(beam_size=BEAMS, min_length=tokens, max_length=tokens)
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


def _matrices(model: CaptionModel) -> list[Tensor]:
    # Keys and values of cross-attention are computed once a picture, not once a step.
    once = ("cross_attention.key", "cross_attention.value")
    decoder = model.text_decoder
    linear = [
        m.weight for n, m in decoder.named_modules() if isinstance(m, nn.Linear) and not n.endswith(once)
    ]
    return [*linear, decoder.embeddings.word.weight]


def _passes(matrices: list[Tensor], steps: int, *_tower: Tensor) -> None:
    rows = {matrix.shape[1]: torch.ones(1, matrix.shape[1]) for matrix in matrices}
    for _ in range(steps):
        for matrix in matrices:
            F.linear(rows[matrix.shape[1]], matrix)
