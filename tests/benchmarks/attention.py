"""Forms of cross-attention: whether the dispatcher takes the fastest here, and what an asymmetric layer gains."""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.page import table
from benchmarks.rounds import MIN_ROUNDS, Timings, interleave
from mplug import lean_layers
from mplug.layers import CrossLayer
from mplug_kernels import absorbed, cached, rates
from mplug_kernels.dispatch import Form, Problem, choose
from mplug_kernels.rates import Rates
from mplug_kernels.types import CrossWeights

SHAPES: Sequence[Problem] = [
    *(
        # Candidates met once, by a text: reranking.
        Problem(
            images=8, new_tokens=tokens, visual_tokens=visual, width=width, memory_width=memory, heads=heads
        )
        for width, heads, memory in ((384, 12, 384), (768, 12, 768), (1024, 16, 1024))
        for visual, tokens in ((50, 12), (197, 12), (577, 1), (577, 12), (577, 64))
    ),
    *(
        # Beams over one picture, token by token: captions and answers.
        Problem(
            images=1,
            sequences_per_image=beams,
            new_tokens=1,
            visual_tokens=visual,
            width=768,
            memory_width=768,
            heads=12,
            steps=steps,
        )
        for beams in (1, 5)
        for visual, steps in ((197, 1), (197, 16), (577, 1), (577, 4), (577, 16), (2305, 4))
    ),
    *(
        # Few pictures, many questions about each.
        Problem(
            images=2,
            sequences_per_image=questions,
            new_tokens=12,
            visual_tokens=577,
            width=768,
            memory_width=768,
            heads=12,
        )
        for questions in (2, 4, 16)
    ),
]
"""Thirty, of the sizes that mPLUG and mplug-mini have."""
NEAR = 1.1
LAYER_PAIRS, LAYER_TOKENS, LAYER_VISUAL = 16, 10, 577


def measure(rounds: int = MIN_ROUNDS, shapes: Sequence[Problem] = SHAPES) -> str:
    """The section's text."""
    machine = rates.of_machine(torch.device("cpu"), torch.float32)
    with torch.inference_mode():
        losses = {shape: _loss(shape, machine, rounds) for shape in shapes}
        layer = _layer_timings(machine, rounds)
    near = sum(loss <= NEAR for _, loss in losses.values())
    worst = sorted(losses, key=lambda shape: -losses[shape][1])[:3]
    rows = [(_said(shape), losses[shape][0].value, f"{losses[shape][1]:.2f}") for shape in worst]
    chosen, projected = layer.speedup("chosen", "projecting"), min(layer.seconds["chosen"])
    return (
        f"Float32, CPU, {torch.get_num_threads()} threads, {len(losses)} shapes (reranking, beams over a picture, many "
        "questions), all steps of a call; each of the forms that the cost model knows ran in "
        f"{rounds} interleaved rounds. **{near} of {len(losses)}** choices take at most {NEAR - 1:.0%} longer than the "
        "fastest form (minima). The farthest from it:\n\n"
        + table(("shape", "chosen", "time ÷ that of the fastest"), rows)
        + f"\n\nA whole asymmetric layer (width 768) of {LAYER_PAIRS} pairs of {LAYER_TOKENS} text tokens and "
        f"{LAYER_VISUAL} image_tokens: speed ÷ that with keys and values projected: **{chosen}**, minima (medians); "
        f"wanted ≥ 3. It takes {1000 * projected / LAYER_PAIRS:.2f} ms a pair."
    )


def _loss(problem: Problem, machine: Rates, rounds: int) -> tuple[Form, float]:
    """The form that is chosen, and how many times the fastest's time it takes."""
    timings = interleave({form.value: run for form, run in _contenders(problem).items()}, rounds)
    best = {form: min(timings.seconds[form.value]) for form in Form}
    form = choose(problem, machine)
    return form, best[form] / min(best.values())


def _contenders(problem: Problem) -> dict[Form, Callable[[], object]]:
    weights = _weights(problem)
    memory_BNM = torch.randn(problem.images, problem.visual_tokens, problem.memory_width)
    x_SLD = torch.randn(problem.images * problem.sequences_per_image, problem.new_tokens, problem.width)

    def plain() -> None:
        for _ in range(problem.steps):
            cached.attend(x_SLD, cached.project(memory_BNM, weights), weights)

    def kept() -> None:
        key_values = cached.project(memory_BNM, weights)
        for _ in range(problem.steps):
            cached.attend(x_SLD, key_values, weights)

    def raw() -> None:
        for _ in range(problem.steps):
            absorbed.attend(x_SLD, memory_BNM, weights)

    return {Form.PLAIN: plain, Form.CACHED: kept, Form.ABSORBED: raw}


def _weights(problem: Problem) -> CrossWeights:
    def projection(inputs: int) -> Tensor:
        matrix: Tensor = torch.randn(problem.width, inputs) * inputs**-0.5
        return matrix

    bias = torch.zeros(problem.width)
    return CrossWeights(
        query_DD=projection(problem.width),
        query_bias_D=bias,
        key_DM=projection(problem.memory_width),
        key_bias_D=bias,
        value_DM=projection(problem.memory_width),
        value_bias_D=bias,
        num_heads=problem.heads,
    )


def _layer_timings(machine: Rates, rounds: int) -> Timings:
    layer = CrossLayer(768, 12, 3072, memory_width=768, eps=1e-12).eval()
    image_CND = torch.randn(LAYER_PAIRS, LAYER_VISUAL, 768)
    text_CLD = torch.randn(LAYER_PAIRS, LAYER_TOKENS, 768)
    # Whoever believes that absorbing takes for ever projects.
    never = dataclasses.replace(machine, absorb_flops=1.0)

    def run(believed: Rates) -> Tensor:
        x_CLD = lean_layers.attend_to_itself(layer, text_CLD, LAYER_TOKENS)
        crossed_CLD = lean_layers.look(layer.cross_attention, x_CLD, image_CND, believed)
        return lean_layers.feed_forward(layer, layer.cross_attention_norm(crossed_CLD.add_(x_CLD)))

    assert torch.allclose(run(machine), run(never), atol=1e-4), "both forms give the same"
    return interleave({"chosen": lambda: run(machine), "projecting": lambda: run(never)}, rounds)


def _said(problem: Problem) -> str:
    return (
        f"{problem.images} × {problem.visual_tokens} tokens of {problem.memory_width}, {problem.sequences_per_image} × "
        f"{problem.new_tokens} queries each, {problem.steps} steps"
    )
