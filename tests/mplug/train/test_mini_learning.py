"""What learns, what stands still, and in which precision."""

import pytest
import torch
from torch import Tensor, nn

from golden.mplug_cases import small_vocab
from mplug.checkpoints.quantize import quantize_rows, widen_rows
from mplug.retrieval import RetrievalModel
from mplug.text.tokenizer import WordPieceTokenizer
from mplug.train.config import override
from mplug.train.mini_learning import depthwise_in_float32, freeze, round_frozen
from mplug.train.recipes import mplug_mini

DEPTH = 6


@pytest.fixture
def model() -> RetrievalModel:
    config = override(
        mplug_mini(), ["model.text_encoder.layers=1", "model.text_encoder.vocab_size=130"]
    ).model
    torch.manual_seed(0)
    return RetrievalModel(config, WordPieceTokenizer(small_vocab(130), max_length=8)).eval()


def learning(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_of_the_tower_only_dense_convolutions_of_the_last_blocks_learn(model: RetrievalModel) -> None:
    freeze(model, DEPTH)
    tower = {name for name in learning(model) if name.startswith("image_encoder.backbone.tower.")}
    assert {name.removeprefix("image_encoder.backbone.tower.") for name in tower} == {
        "blocks.6.0.conv_pw.weight",
        "blocks.6.0.conv_pwl.weight",
        "conv_head.weight",
    }
    assert {"image_proj.weight", "image_encoder.adapter.linear.weight"} <= learning(model)


def test_frozen_weights_are_their_own_int8_rows_and_the_others_untouched(model: RetrievalModel) -> None:
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    freeze(model, DEPTH)
    round_frozen(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or parameter.dim() == 1:
            assert torch.equal(parameter, before[name]), name
        else:
            assert torch.equal(parameter, widen_rows(*quantize_rows(parameter))), name
            assert not torch.equal(parameter, before[name]), name


def test_depthwise_convolutions_that_gradients_pass_run_in_float32(model: RetrievalModel) -> None:
    depthwise_in_float32(model, DEPTH)
    dtypes: dict[str, torch.dtype] = {}

    def note(name: str) -> object:
        def hook(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
            dtypes[name] = output.dtype

        return hook

    tower = model.image_encoder.backbone.tower
    for name, module in tower.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note(name))  # type: ignore[arg-type]  # a hook, made by a function
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        model.encode_image(torch.zeros(1, 3, 224, 224, dtype=torch.uint8))
    assert dtypes["blocks.6.0.conv_dw"] == torch.float32
    assert dtypes["blocks.6.0.conv_pw"] == dtypes["blocks.2.0.conv_dw"] == torch.bfloat16
