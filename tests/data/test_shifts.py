"""The fixed perturbations of an evaluation: what each does to pixels, the same in every process."""

import numpy as np
import pytest
import torch

from mlcak_hf import MLCAKImageProcessor
from mlcak_hf.data.collator import MLCAKCollator
from mlcak_hf.data.shifts import REPORTED_SHIFTS, SHIFTS, Shift
from mlcak_hf.data.view_pixels import view_pixels
from mlcak_hf.data.views import View, ViewParameters
from mlcak_hf.image_processing_mlcak import area_resize

ROWS = [
    {"image": np.random.default_rng(index).integers(0, 256, (48, 48)).astype(np.uint8), "index": index}
    for index in range(3)
]


def ramp(side: int = 96) -> np.ndarray:
    """Grey values from 0 at the left to 0.9 at the right, and a little more at the bottom."""
    return (np.linspace(0, 0.9, side)[None] + np.linspace(0, 0.1, side)[:, None]).astype(np.float32)


def shifted(name: str, image: np.ndarray, side: int) -> np.ndarray:
    (pixels,) = REPORTED_SHIFTS[name].pixels(image, 0, [side])
    assert pixels.dtype == np.float32
    assert pixels.shape == (side, side)
    assert 0 <= pixels.min() <= pixels.max() <= 1
    return pixels


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gamma_0.6", lambda v: v**0.6),
        ("gamma_1.6", lambda v: v**1.6),
        ("contrast_0.6", lambda v: 0.6 * v),
        ("brightness_0.15", lambda v: np.minimum(v + 0.15, 1)),
    ],
)
def test_exposures_are_functions_of_the_grey_value(name, expected):
    np.testing.assert_allclose(shifted(name, ramp(), 24), area_resize(expected(ramp()), 24, 24), atol=1e-5)


def test_zooms_and_the_crop_show_these_parts_of_the_image():
    image = ramp()
    larger = shifted("zoom_1.2", image, 80)
    np.testing.assert_allclose(larger, image[8:88, 8:88], atol=0.02)
    smaller = shifted("zoom_0.8", image, 120)
    np.testing.assert_allclose(smaller[14:-14, 14:-14], area_resize(image, 96, 96)[2:-2, 2:-2], atol=0.02)
    assert smaller[:10].max() == 0, "dark outside"
    image = ramp(100)
    expected = area_resize(image[12:, 12:], 22, 22)
    # The last row and column end in the dark outside.
    np.testing.assert_allclose(shifted("crop", image, 22)[:-1, :-1], expected[:-1, :-1], atol=1e-4)


def test_blur_is_the_mean_of_a_square_of_a_twelfth_of_the_side():
    image = np.random.default_rng(0).random((96, 96), dtype=np.float32)
    expected = np.array(
        [[image[max(r - 4, 0) : r + 5, max(c - 4, 0) : c + 5].mean() for c in range(96)] for r in range(96)]
    )
    np.testing.assert_allclose(shifted("blur", image, 96), expected, atol=1e-5)


def test_the_shift_of_a_report_moves_the_image_right_and_down():
    image = ramp(100)
    moved = shifted("shift", image, 100)
    np.testing.assert_allclose(moved[9:, 9:], image[1:-8, 1:-8], atol=0.02)
    assert moved[:7].max() == moved[:, :7].max() == 0, "dark where nothing is known"


def test_a_report_halves_the_resolution_of_what_the_model_sees():
    image = np.random.default_rng(0).random((96, 96), dtype=np.float32)
    halved = area_resize(image, 12, 12)
    pixels = shifted("resolution_0.5", image, 24)
    # Linear between the centres of the small pixels: a quarter of the way from one to the next.
    expected = 0.75 * (0.75 * halved[3, 3] + 0.25 * halved[3, 4]) + 0.25 * (0.75 * halved[4, 3] + 0.25 * halved[4, 4])
    assert pixels[7, 7] == pytest.approx(expected, abs=1e-5)
    assert pixels.std() < area_resize(image, 24, 24).std()


def test_noise_is_white_and_depends_on_the_image_alone():
    grey = np.full((64, 64), 0.5, np.float32)
    noise = [SHIFTS["noise"].pixels(grey, index, [64])[0] - 0.5 for index in (0, 1, 0)]
    assert np.array_equal(noise[0], noise[2])
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1
    assert noise[0].std() == pytest.approx(0.04, rel=0.1)
    assert noise[0].mean() == pytest.approx(0, abs=0.005)


def test_a_shift_without_effect_gives_the_evaluations_pixels():
    image = ROWS[0]["image"]
    (pixels,) = Shift().pixels(image, 0, [12])
    assert np.array_equal(pixels, view_pixels(image, View(), [12])[0])


def test_the_collator_perturbs_an_evaluation_in_turn_and_then_no_more():
    training = MLCAKCollator(MLCAKImageProcessor(size={"height": 12, "width": 12}), views=ViewParameters())
    collator = training.for_evaluation()
    before, in_training = collator(ROWS)["pixel_values"], training(ROWS)["pixel_values"]
    seen = {}
    for name in collator.each_shift():
        seen[name] = collator(ROWS)["pixel_values"]
        assert torch.equal(training(ROWS)["pixel_values"], in_training), "views for training stay as they are"
        expected = [SHIFTS[name].pixels(row["image"], row["index"], [12])[0] for row in ROWS]
        assert torch.equal(seen[name], torch.from_numpy((np.stack(expected)[:, None] - 0.5) / np.float32(0.25)))
    assert list(seen) == list(SHIFTS)
    assert not any(torch.equal(pixels, before) for pixels in seen.values())
    assert torch.equal(collator(ROWS)["pixel_values"], before)
