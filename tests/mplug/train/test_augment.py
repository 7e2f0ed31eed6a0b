"""Augmented pictures: what the reference does, drawn from the caller's generator alone."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from mplug.train.augment import OPERATIONS, AugmentConfig, augment, crop_box, names_side


def picture(width: int = 90, height: int = 70) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 200, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pixels(image: Image.Image) -> NDArray[np.int64]:
    return np.asarray(image).astype(np.int64)


def marked() -> Image.Image:
    """Black with one white pixel at column 20, row 20."""
    image = Image.new("RGB", (40, 40))
    image.putpixel((20, 20), (255, 255, 255))
    return image


def place(image: Image.Image) -> tuple[int, int]:
    """Column and row of the white pixel, whatever came in at the edges."""
    rows, columns = np.nonzero(pixels(image)[..., 0] > 200)
    return int(columns[0]), int(rows[0])


def test_the_same_generator_gives_the_same_picture() -> None:
    first, second, other = (augment(picture(), 48, AugmentConfig(), random.Random(s)) for s in (1, 1, 2))
    assert (first.size, first.mode) == ((48, 48), "RGB")
    assert np.array_equal(pixels(first), pixels(second))
    assert not np.array_equal(pixels(first), pixels(other))


def test_nothing_is_drawn_from_elsewhere() -> None:
    random.seed(0)
    np.random.seed(0)
    import torch

    before = random.getstate(), torch.get_rng_state()
    for seed in range(20):
        augment(picture(), 24, AugmentConfig(), random.Random(seed))
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    min_area=st.floats(0.05, 1.0),
    seed=st.integers(0, 99),
)
def test_a_crop_lies_inside(width: int, height: int, min_area: float, seed: int) -> None:
    left, top, right, bottom = crop_box(random.Random(seed), width, height, min_area)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_crops_have_the_areas_and_shapes_of_random_resized_crop() -> None:
    boxes = [crop_box(random.Random(seed), 1000, 1000, 0.5) for seed in range(500)]
    areas = np.array([(r - l) * (b - t) / 1e6 for l, t, r, b in boxes])  # noqa: E741
    ratios = np.array([(r - l) / (b - t) for l, t, r, b in boxes])  # noqa: E741
    assert areas.min() > 0.48
    assert areas.max() > 0.9
    assert 0.74 < ratios.min() < 0.8
    assert 1.25 < ratios.max() < 1.34


def test_about_half_are_mirrored_but_none_whose_texts_name_a_side() -> None:
    config = AugmentConfig(min_crop=1.0, num_operations=0)
    image = Image.new("RGB", (40, 40))
    image.paste((255, 255, 255), (0, 0, 10, 40))
    sides = [
        [
            pixels(augment(image, 40, config, random.Random(s), texts))[..., 0].argmax(1)[20] > 20
            for s in range(200)
        ]
        for texts in ((), ("a dog to the left of a cat",))
    ]
    assert 70 < sum(sides[0]) < 130
    assert not any(sides[1])


def test_the_texts_change_nothing_else() -> None:
    config = AugmentConfig(mirror=False)
    first = augment(picture(), 32, config, random.Random(5))
    second = augment(picture(), 32, AugmentConfig(), random.Random(5), ["left"])
    assert np.array_equal(pixels(first), pixels(second))


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("On the LEFT side", True),
        ("the rightmost cup", True),
        ("瓢虫在索道的左边", True),
        ("a bright leftover cleft", False),
        ("", False),
    ],
)
def test_sides_are_found_in_both_languages(text: str, side: bool) -> None:
    assert names_side(["a dog", text]) == side


def test_the_ten_operations_are_the_references() -> None:
    assert list(OPERATIONS) == [
        *("Identity", "AutoContrast", "Equalize", "Brightness", "Sharpness"),
        *("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"),
    ]


def test_sizes_of_the_operations_at_magnitude_7() -> None:
    assert place(OPERATIONS["TranslateX"](marked(), 0.7)) == (27, 20)
    assert place(OPERATIONS["TranslateY"](marked(), -0.7)) == (20, 13)
    # x + 0.21 y with y at 20.5: 24.3; the row stays.
    column, row = place(OPERATIONS["ShearX"](_wide(marked()), 0.7))
    assert (abs(column - 20), row) == (4, 20)
    column, row = place(OPERATIONS["ShearY"](_wide(marked()), 0.7))
    assert (column, abs(row - 20)) == (20, 4)
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    assert pixels(OPERATIONS["Brightness"](grey, 0.7)).mean() == 136  # 0.7 * 1.8 + 0.1 = 1.36
    assert pixels(OPERATIONS["Brightness"](grey, -0.7)).mean() == 136
    turned = pixels(OPERATIONS["Rotate"](picture(64, 64), 0.7))
    assert np.array_equal(turned[0, 0], (128, 128, 128)), "grey comes in from outside"
    assert pixels(OPERATIONS["AutoContrast"](picture(), 0.7)).max() == 255
    assert OPERATIONS["Identity"](grey, 0.7) is grey


def _wide(image: Image.Image) -> Image.Image:
    """The mark wide enough to outlive interpolation."""
    image.paste((255, 255, 255), (20, 20, 22, 22))
    return image


def test_two_operations_each_with_probability_one_half() -> None:
    untouched = 0
    for seed in range(400):
        cropped = augment(picture(), 32, AugmentConfig(num_operations=0), random.Random(seed))
        whole = augment(picture(), 32, AugmentConfig(), random.Random(seed))
        untouched += np.array_equal(pixels(cropped), pixels(whole))
    # Neither is done, or it is Identity: (1/2 + 1/20) squared = 0.3025; five standard deviations are 46.
    assert abs(untouched - 121) < 46
