"""Views: the same for the same seed, nothing lost at identity, and true to a slow reference."""

import math

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from mlcak_hf.data.views import View, ViewParameters, apply_views
from mlcak_hf.errors import RecipeError
from mlcak_hf.image_processing_mlcak import area_resize


def radiograph(side: int = 64, seed: int = 0) -> np.ndarray:
    """A smooth image with structure down to a few pixels, as a stored radiograph has."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    waves = sum(rng.normal() * np.cos(2 * math.pi * (fx * x + fy * y) + p) for fx, fy, p in rng.uniform(-4, 4, (12, 3)))
    return ((waves - waves.min()) / (waves.max() - waves.min())).astype(np.float32)


def source_point(view: View, x: float, y: float) -> tuple[float, float]:
    """Where a point of the view (0 to 1) lies in the stored image: the view's steps undone one by one."""
    x, y = x - 0.5 - view.shift_x, y - 0.5 - view.shift_y
    angle = math.radians(view.rotation_deg)
    # Counter-clockwise as seen, with y pointing down; undone, it turns clockwise.
    x, y = x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)
    x, y = x / view.scale, y / view.scale
    return (-x if view.flip else x) + 0.5, y + 0.5


def bilinear(image: np.ndarray, x: float, y: float, sharp_edge: bool) -> float:
    """Value at a point (0 to 1) between pixel centres; dark outside, from the edge or fading out around it."""
    height, width = image.shape
    column, row = x * width - 0.5, y * height - 0.5
    if sharp_edge:
        if not (0 <= x <= 1 and 0 <= y <= 1):
            return 0.0
        column, row = min(max(column, 0), width - 1), min(max(row, 0), height - 1)
    left, top = math.floor(column), math.floor(row)
    total = 0.0
    for r in (top, top + 1):
        for c in (left, left + 1):
            if 0 <= r < height and 0 <= c < width:
                total += image[r, c] * (1 - abs(row - r)) * (1 - abs(column - c))
    return total


def slow_view(image: np.ndarray, view: View, side: int, samples: int = 1) -> np.ndarray:
    """View at `side` px: the continuous transform at the centre of each pixel, or averaged over many points of it."""
    offsets = [(k + 0.5) / samples for k in range(samples)]
    out = np.zeros((side, side))
    for row in range(side):
        for column in range(side):
            points = [source_point(view, (column + j) / side, (row + i) / side) for i in offsets for j in offsets]
            values = [max(0.0, bilinear(image, *point, sharp_edge=samples > 1)) for point in points]
            out[row, column] = np.mean([min(1.0, view.contrast * value**view.gamma) for value in values])
    return out


VIEWS = [
    View(rotation_deg=9.0),
    View(scale=1.14),
    View(scale=0.9, shift_x=0.05, shift_y=-0.03),
    View(rotation_deg=-10.0, scale=1.1, shift_x=-0.05, flip=True, gamma=1.15, contrast=0.9),
    View(gamma=0.85, contrast=1.15),
]


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_equals_the_slow_reference_pixel_by_pixel(view):
    image = radiograph(32)
    np.testing.assert_allclose(apply_views(image[None], [view])[0], slow_view(image, view, 32), atol=2e-5)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("side", [7, 14])
def test_a_reduced_view_is_the_area_average_of_the_continuous_transform(view, side):
    """Within 2/255; 64 px to 7 px is a student of 28 px of the stored 256 px, to 14 px one of 56 px.

    The image ends in the dark, as a padded or collimated one does: a step to the dark outside is sampled like any other
    step between two pixels, and a cell that it crosses may be off by another 2/255.
    """
    rim = np.minimum(1, np.minimum(np.arange(64), np.arange(64)[::-1]) / 6).astype(np.float32)
    image = radiograph(64) * rim[:, None] * rim
    reduced = area_resize(apply_views(image[None], [view]), side, side)[0]
    assert np.abs(reduced - slow_view(image, view, side, samples=12)).max() < 2 / 255


def test_identity_returns_the_image_bit_for_bit_beside_views_that_do_not():
    images = np.stack([radiograph(224, seed) for seed in range(3)])
    views = apply_views(images, [View(), View(rotation_deg=5.0), View()])
    assert np.array_equal(views[0], images[0])
    assert np.array_equal(views[2], images[2])
    assert not np.array_equal(views[1], images[1])


def test_a_view_does_not_depend_on_its_neighbours_in_the_batch():
    images = np.stack([radiograph(48, seed) for seed in range(4)])
    together = apply_views(images, VIEWS[:4])
    for i in range(4):
        assert np.array_equal(together[i], apply_views(images[i : i + 1], VIEWS[i : i + 1])[0])


def test_the_bits_depend_on_no_number_of_threads():
    images = np.random.default_rng(0).random((3, 256, 256), dtype=np.float32)
    drawn = [ViewParameters().draw(0, 0, index) for index in range(3)]
    results = []
    for threads in (1, 4):
        with threadpool_limits(threads):
            results.append([area_resize(apply_views(images, drawn), side, side) for side in (28, 100, 224)])
    for ours, theirs in zip(*results, strict=True):
        assert np.array_equal(ours, theirs)


def test_a_rotation_turns_counter_clockwise_and_a_shift_goes_right_and_down():
    image = np.zeros((1, 41, 41), np.float32)
    image[0, 20, 36] = 1.0
    turned = apply_views(image, [View(rotation_deg=90.0)])[0]
    assert np.unravel_index(turned.argmax(), turned.shape) == (4, 20)
    moved = apply_views(image, [View(shift_x=4 / 41, shift_y=8 / 41)])[0]
    assert np.unravel_index(moved.argmax(), moved.shape) == (28, 40)


def test_outside_and_background_stay_dark():
    view = apply_views(np.ones((1, 40, 40), np.float32), [View(scale=0.5, contrast=0.9, gamma=1.2)])[0]
    assert view[:8].max() == 0.0
    assert view[20, 20] == pytest.approx(0.9)


def test_draws_depend_on_seed_epoch_and_index_alone():
    parameters = ViewParameters()
    assert parameters.draw(1, 2, 3) == parameters.draw(1, 2, 3)
    others = {parameters.draw(*key) for key in [(1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0), (3, 2, 1)]}
    assert len(others) == 5


def test_draws_fill_their_ranges_and_stay_inside():
    parameters = ViewParameters(flip_probability=0.25)
    draws = [parameters.draw(0, 0, index) for index in range(2000)]
    for name, low, high in [
        ("rotation_deg", -10, 10), ("scale", 0.9, 1.14), ("shift_x", -0.05, 0.05), ("shift_y", -0.05, 0.05),
        ("gamma", 1 / 1.2, 1.2), ("contrast", 1 / 1.15, 1.15),
    ]:  # fmt: skip
        values = np.array([getattr(draw, name) for draw in draws])
        assert low <= values.min() < low + 0.02 * (high - low), name
        assert high - 0.02 * (high - low) < values.max() <= high, name
    assert np.mean([draw.flip for draw in draws]) == pytest.approx(0.25, abs=0.04)


def test_no_ranges_no_change():
    assert ViewParameters.none().draw(5, 6, 7) == View()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rotation_deg", -1),
        ("min_scale", 0),
        ("min_scale", 1.2),
        ("shift", 0.6),
        ("flip_probability", 1.1),
        ("max_gamma", 0.9),
    ],
)
def test_a_range_that_makes_no_sense_is_named(name, value):
    with pytest.raises(RecipeError, match=f"{name} of the views .*got {value}"):
        ViewParameters(**{name: value})
