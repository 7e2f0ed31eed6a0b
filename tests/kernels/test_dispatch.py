"""The choice of form as a pure function of problem and rates."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mplug_kernels.dispatch import Form, Problem, choose, seconds
from mplug_kernels.rates import Rates

# One H100 as modelled in the design notes: large products, short-query attention, one wide head; 90 % of 3 TB/s.
H100 = Rates(
    project_flops=650e12, attend_flops=350e12, absorb_flops=500e12, bytes_per_second=2.7e12, call_seconds=1e-9
)
# One core of a server with AVX-512, float32.
CPU = Rates(
    project_flops=90e9, attend_flops=60e9, absorb_flops=82e9, bytes_per_second=20e9, call_seconds=2e-6
)


def rerank(tokens: int, *, rows: int = 577, width: int = 768, heads: int = 12, images: int = 64) -> Problem:
    return Problem(
        images=images,
        new_tokens=tokens,
        visual_tokens=rows,
        width=width,
        memory_width=width,
        heads=heads,
        dtype=torch.bfloat16,
    )


def decode(beams: int, *, rows: int = 577, width: int = 768, heads: int = 12, images: int = 64) -> Problem:
    problem = rerank(1, rows=rows, width=width, heads=heads, images=images)
    return replace(problem, sequences_per_image=beams, steps=10_000)


def last_absorbed(problems: list[Problem], rates: Rates) -> int:
    """Rows of the largest problem that is still absorbed; the others, above it, must not be."""
    forms = [choose(problem, rates) for problem in problems]
    count = forms.count(Form.ABSORBED)
    assert forms[:count] == [Form.ABSORBED] * count, "more tokens never bring absorbing back"
    return problems[count - 1].tokens * problems[count - 1].heads if count else 0


@pytest.mark.parametrize(
    ("width", "heads", "rows", "crossover"),
    # Texts up to about 64 tokens; about 43 where the folded rows of 577-token pictures go through memory.
    [(768, 12, 577, 515), (768, 12, 2305, 800), (1024, 16, 2305, 1000), (1024, 16, 9217, 1000)],
)
def test_projecting_overtakes_absorbing_where_it_should(
    width: int, heads: int, rows: int, crossover: int
) -> None:
    problems = [rerank(tokens, rows=rows, width=width, heads=heads) for tokens in range(1, 200)]
    assert crossover / 1.35 < last_absorbed(problems, H100) < crossover * 1.35


@pytest.mark.parametrize(("width", "heads"), [(768, 12), (1024, 16)])
@pytest.mark.parametrize("rows", [2305, 9217])
def test_the_cache_overtakes_absorbing_where_it_should(width: int, heads: int, rows: int) -> None:
    problems = [decode(beams, rows=rows, width=width, heads=heads) for beams in range(1, 60)]
    assert 185 / 1.35 < last_absorbed(problems, H100) < 185 * 1.35


@pytest.mark.parametrize(
    ("beams", "width", "heads", "rows", "images"),
    [(5, 768, 12, 577, 5), (10, 768, 12, 577, 16), (5, 768, 12, 2305, 1), (5, 1024, 16, 577, 8)],
)
def test_a_decoder_absorbs_from_so_many_images_on(
    beams: int, width: int, heads: int, rows: int, images: int
) -> None:
    # By traffic: N > 4 R + 2 D / B. Fewer images do not pay for reading both weights at every step.
    problems = [decode(beams, rows=rows, width=width, heads=heads, images=count) for count in range(1, 65)]
    forms = [choose(problem, H100) for problem in problems]
    first = 1 + forms.index(Form.ABSORBED)
    assert forms[first:] == [Form.ABSORBED] * (64 - first)
    assert images / 1.35 < first < images * 1.35


@pytest.mark.parametrize(
    ("problem", "rates", "form"),
    [
        (decode(5), H100, Form.ABSORBED),
        (decode(5, images=1), H100, Form.CACHED),  # the weights are more than what absorbing saves
        (rerank(30), H100, Form.ABSORBED),
        (rerank(90), H100, Form.PLAIN),
        # Processors have little arithmetic for their memory: absorbing pays where nothing is cached.
        (replace(decode(5), dtype=torch.float32), CPU, Form.CACHED),
        (replace(rerank(12, images=8), dtype=torch.float32), CPU, Form.ABSORBED),
        (replace(rerank(12, images=8), dtype=torch.float32, steps=30), CPU, Form.CACHED),
    ],
)
def test_well_known_problems(problem: Problem, rates: Rates, form: Form) -> None:
    assert choose(problem, rates) is form


rates_of_any_machine = st.builds(
    Rates,
    project_flops=st.floats(1e9, 1e15),
    # Attention with ordinary heads is never slower than 1 / H of that with one wide head.
    attend_flops=st.floats(1e9, 1e15),
    absorb_flops=st.floats(1e9, 2e9),
    bytes_per_second=st.floats(1e9, 1e13),
    call_seconds=st.floats(1e-9, 1e-4),
)
any_problem = st.builds(
    Problem,
    images=st.integers(1, 256),
    sequences_per_image=st.integers(1, 10),
    new_tokens=st.integers(1, 100),
    visual_tokens=st.integers(1, 10_000),
    width=st.sampled_from([768, 1024]),
    memory_width=st.sampled_from([768, 1024]),
    heads=st.sampled_from([2, 12, 16]),
    steps=st.integers(1, 50),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)


@given(problem=any_problem, rates=rates_of_any_machine, more=st.integers(1, 100))
def test_the_choice_is_monotone(problem: Problem, rates: Rates, more: int) -> None:
    form = choose(problem, rates)
    costs = seconds(problem, rates)
    assert costs[form] == min(costs.values())
    assert choose(replace(problem, steps=problem.steps + more), rates) in (
        {form} if problem.steps > 1 and form is Form.CACHED else {form, Form.CACHED}
    ), "more steps lead to the cache and never away from it"
    if form is not Form.ABSORBED:
        longer = replace(problem, new_tokens=problem.new_tokens + more)
        assert choose(longer, rates) is not Form.ABSORBED, "more tokens never bring absorbing back"


@given(problem=any_problem, rates=rates_of_any_machine, more=st.integers(1, 100))
def test_more_work_never_takes_less_time(problem: Problem, rates: Rates, more: int) -> None:
    before = seconds(problem, rates)
    for name in ("images", "sequences_per_image", "new_tokens", "visual_tokens", "steps"):
        after = seconds(replace(problem, **{name: getattr(problem, name) + more}), rates)
        assert all(after[form] >= before[form] for form in Form), name


@given(problem=any_problem, rates=rates_of_any_machine)
def test_a_single_step_needs_no_cache(problem: Problem, rates: Rates) -> None:
    assert choose(replace(problem, steps=1), rates) is not Form.CACHED


@pytest.mark.parametrize("name", ["images", "steps", "heads", "visual_tokens"])
def test_problems_without_size_are_refused(name: str) -> None:
    values = {**asdict(rerank(12)), name: 0}
    with pytest.raises(ValueError, match=f"{name} is 0; it must be at least 1"):
        Problem(**values)
