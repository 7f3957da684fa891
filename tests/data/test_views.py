"""Views: the same for the same seed, nothing lost at identity, and true to a slow reference."""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from mlcak_hf.data.view_pixels import expose, view_pixels
from mlcak_hf.data.views import VIEW_DEFINITION, View, ViewParameters
from mlcak_hf.errors import RecipeError
from mlcak_hf.image_processing_mlcak import area_resize, to_unit_range


def radiograph(side: int = 64, seed: int = 0) -> np.ndarray:
    """A smooth image with structure down to a few pixels, as a stored radiograph has."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    waves = sum(rng.normal() * np.cos(2 * math.pi * (fx * x + fy * y) + p) for fx, fy, p in rng.uniform(-4, 4, (12, 3)))
    return ((waves - waves.min()) / (waves.max() - waves.min())).astype(np.float32)


def noise(side: int = 32, seed: int = 0) -> np.ndarray:
    """An image in which every pixel is another: nothing is sharper."""
    return np.random.default_rng(seed).random((side, side), dtype=np.float32)


def source_points(view: View, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where points of the view (0 to 1) lie in the stored image: the view's steps undone one by one."""
    x, y = x - 0.5 - view.shift_x, y - 0.5 - view.shift_y
    x, y = x / (view.scale * math.sqrt(view.stretch)), y / (view.scale / math.sqrt(view.stretch))
    angle = math.radians(view.rotation_deg)
    # Counter-clockwise as seen, with y pointing down; undone, it turns clockwise.
    x, y = x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)
    return (-x if view.flip else x) + 0.5, y + 0.5


def pixel(image: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Stored pixels, and darkness outside."""
    inside = (row >= 0) & (row < image.shape[0]) & (column >= 0) & (column < image.shape[1])
    return np.where(inside, image[np.where(inside, row, 0), np.where(inside, column, 0)], 0)


def along_row(image: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """A row between its pixels' centres."""
    left = np.floor(column).astype(int)
    share = column - left
    return (1 - share) * pixel(image, row, left) + share * pixel(image, row, left + 1)


def continuous(image: np.ndarray, view: View, x: np.ndarray, y: np.ndarray, bilinear: bool) -> np.ndarray:
    """Values of the moved image at points of the view (0 to 1).

    Between two rows of the image it is linear along the columns of the view, or straight down (`bilinear`).
    """
    (column, row), (lower_column, lower_row) = source_points(view, x, y), source_points(view, x, y + 1)
    per_row = lower_column - column, lower_row - row
    if np.abs(per_row[1]).max() < np.abs(per_row[0]).max():
        image, column, row, per_row = image.T, row, column, per_row[::-1]
    column, row = column * len(image) - 0.5, row * len(image) - 0.5
    shear = 0 if bilinear else per_row[0] / per_row[1]
    top = np.floor(row).astype(int)
    share = row - top
    upper, lower = (
        along_row(image, top, column - share * shear),
        along_row(image, top + 1, column + (1 - share) * shear),
    )
    return (1 - share) * upper + share * lower


def slow_view(image: np.ndarray, view: View, side: int, bilinear: bool = False, samples: int = 24) -> np.ndarray:
    """Exposed pixels, moved, and averaged over many points of each pixel of the view."""
    exposed = np.clip(view.contrast * image.astype(np.float64) ** view.gamma + view.brightness, 0.0, 1.0)
    places = (np.arange(side * samples) + 0.5) / (side * samples)
    moved = continuous(exposed, view, places[None] + 0 * places[:, None], places[:, None] + 0 * places[None], bilinear)
    return moved.reshape(side, samples, side, samples).mean(axis=(1, 3))


PIXELS_OF_DEFINITION_3 = [
    [0.41467, 0.50370, 0.39287, 0.54060],
    [0.41612, 0.58939, 0.29973, 0.46122],
    [0.51971, 0.46999, 0.23600, 0.61169],
    [0.47164, 0.53331, 0.28533, 0.48456],
]

VIEWS = [
    View(rotation_deg=9.0),
    View(scale=1.14),
    View(scale=0.9, shift_x=0.05, shift_y=-0.03),
    View(rotation_deg=-10.0, scale=1.1, shift_x=-0.05, flip=True, gamma=1.15, contrast=0.9),
    View(rotation_deg=10.0, gamma=0.85, contrast=1.15),
    View(rotation_deg=100.0, scale=0.9, shift_y=0.05),
    View(rotation_deg=-175.0, flip=True),
    View(rotation_deg=10.0, scale=1.1, shift_x=0.02, stretch=1.3, brightness=-0.1),
    View(rotation_deg=80.0, stretch=0.8, brightness=0.1),
]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("side", "grey_levels"), [(4, 0.3), (7, 0.3), (14, 1.5)])
def test_pixels_are_area_averages_of_the_continuous_image(view, side, grey_levels):
    """White noise of 32 px, to sides as 28, 56 and 112 px are to a stored image of 256 px; the bar is 2 of 255."""
    (pixels,) = view_pixels(noise(), view, [side])
    assert pixels.dtype == np.float32
    assert np.abs(pixels - slow_view(noise(), view, side, samples=48)).max() < grey_levels / 255


@pytest.mark.parametrize("view", VIEWS[:5])
@pytest.mark.parametrize("side", [7, 14, 28, 56])
def test_on_radiographs_they_are_those_of_bilinear_interpolation(view, side):
    """64 px with sharp ends, to sides as 28, 56, 112 and 224 px are to 256 px."""
    image = radiograph()
    (pixels,) = view_pixels(image, view, [side])
    assert np.abs(pixels - slow_view(image, view, side)).max() < 1.2 / 255
    assert np.abs(pixels - slow_view(image, view, side, bilinear=True)).max() < 2 / 255


@pytest.mark.parametrize("view", VIEWS)
def test_a_student_sees_the_area_average_of_what_its_teacher_sees(view):
    image = noise(256)
    teacher, student = view_pixels(image, view, [224, 28])
    assert np.abs(area_resize(teacher, 28, 28) - student).max() < 0.1 / 255


@pytest.mark.parametrize("side", [28, 100, 224])
def test_a_view_without_geometry_is_what_the_processor_makes_of_the_exposed_image(side):
    image = radiograph(224)
    assert np.array_equal(view_pixels(image, View(), [side])[0], area_resize(image, side, side))
    (pixels,) = view_pixels(image, View(gamma=0.9, contrast=1.1), [side])
    np.testing.assert_allclose(pixels, area_resize(np.minimum(1, 1.1 * image**0.9), side, side), atol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_stored_grey_values_are_exposed_as_their_fractions(dtype):
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (40, 40), endpoint=True).astype(dtype)
    for view in (View(), View(gamma=1.2, contrast=0.9), View(gamma=0.8, contrast=1.2), View(brightness=0.1)):
        exposed = expose(image, view)
        assert exposed.dtype == np.float32
        np.testing.assert_array_equal(exposed, expose(to_unit_range(image), view))
    assert expose(np.zeros((2, 2), dtype), View(gamma=0.8, contrast=1.2)).max() == 0, "the background stays dark"
    assert np.array_equal(view_pixels(image, VIEWS[3], [10])[0], view_pixels(to_unit_range(image), VIEWS[3], [10])[0])


def test_the_bits_depend_on_no_other_size_and_no_number_of_threads():
    image, view = noise(256), ViewParameters().draw(0, 0, 1)
    together = view_pixels(image, view, [28, 100, 224])
    for side, expected in zip((28, 100, 224), together, strict=True):
        for threads in (1, 4):
            with threadpool_limits(threads):
                assert np.array_equal(view_pixels(image, view, [side])[0], expected)
                assert np.array_equal(view_pixels(image, View(), [side])[0], area_resize(image, side, side))


def test_a_rotation_turns_counter_clockwise_and_a_shift_goes_right_and_down():
    image = np.zeros((41, 41), np.float32)
    image[20, 36] = 1.0
    (turned,) = view_pixels(image, View(rotation_deg=90.0), [41])
    assert np.unravel_index(turned.argmax(), turned.shape) == (4, 20)
    (moved,) = view_pixels(image, View(shift_x=4 / 41, shift_y=8 / 41), [41])
    assert np.unravel_index(moved.argmax(), moved.shape) == (28, 40)
    (mirrored,) = view_pixels(image, View(flip=True), [41])
    assert np.unravel_index(mirrored.argmax(), mirrored.shape) == (20, 4)


def test_outside_and_background_stay_dark():
    (view,) = view_pixels(np.ones((40, 40), np.float32), View(scale=0.5, contrast=0.9, gamma=1.2), [40])
    assert view[:8].max() == 0.0
    assert view[20, 20] == pytest.approx(0.9)


def test_draws_depend_on_seed_epoch_and_index_alone():
    parameters = ViewParameters()
    assert parameters.draw(1, 2, 3) == parameters.draw(1, 2, 3)
    others = {parameters.draw(*key) for key in [(1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0), (3, 2, 1)]}
    assert len(others) == 5


def test_another_seed_is_not_another_epoch():
    parameters = ViewParameters()
    first_seed = {parameters.draw(0, epoch, 5) for epoch in range(4)}
    second_seed = {parameters.draw(1, epoch, 5) for epoch in range(4)}
    assert not first_seed & second_seed


def test_sharp_borders_at_the_teachers_size_are_within_two_grey_levels():
    image = np.zeros((256, 256), np.float32)
    image[60:200, 60:200] = 1.0
    for view in (View(rotation_deg=9.0, scale=1.1), View(rotation_deg=-10.0, shift_x=0.03)):
        (pixels,) = view_pixels(image, view, [224])
        assert np.abs(pixels - slow_view(image, view, 224, samples=12)).max() < 2 / 255


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


def test_stretch_and_brightness_are_off_by_default_and_change_no_other_draw():
    drawn = np.random.default_rng([0, 1, 2]).random(7)
    off = ViewParameters().draw(0, 1, 2)
    assert (off.rotation_deg, off.contrast) == (10 * (2 * drawn[0] - 1), 1.15 ** (2 * drawn[6] - 1))
    assert (off.stretch, off.brightness) == (1.0, 0.0)
    on = [ViewParameters(max_stretch=1.44, brightness=0.1).draw(0, 1, index) for index in range(500)]
    assert replace(on[2], stretch=1.0, brightness=0.0) == off
    for values, low, high in (([v.stretch for v in on], 1 / 1.44, 1.44), ([v.brightness for v in on], -0.1, 0.1)):
        assert low <= min(values) < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < max(values) <= high


def test_a_stretched_view_is_wider_and_less_high():
    image = np.zeros((60, 60), np.float32)
    image[20:40, 20:40] = 1.0
    (pixels,) = view_pixels(image, View(stretch=2.25), [60])
    assert (pixels.max(axis=0) > 0.5).sum() == 30
    assert (pixels.max(axis=1) > 0.5).sum() in (13, 14)


def test_the_numbers_of_a_draw_are_independent():
    parameters = ViewParameters(flip_probability=0.5, max_stretch=1.44, brightness=0.1)
    draws = np.array([list(asdict(parameters.draw(0, 0, index)).values()) for index in range(2000)], float)
    correlations = np.corrcoef(draws.T) - np.eye(9)
    assert np.abs(correlations).max() < 0.1


def test_a_view_is_not_brighter_than_white_or_darker_than_black():
    """The correction of slanted ends alone would give values from -0.01 to 1.01."""
    image = np.random.default_rng(1).integers(0, 2, (64, 64)).astype(np.float32)
    (pixels,) = view_pixels(image, View(rotation_deg=44.0, scale=1.3), [56])
    assert pixels.min() == 0.0
    assert pixels.max() == 1.0


def test_brightness_is_added_and_clipped():
    image = np.array([[0.0, 0.5, 1.0]], np.float32)
    for brightness, expected in ((0.25, [0.25, 0.75, 1]), (-0.25, [0, 0.25, 0.75]), (1.0, [1, 1, 1])):
        assert expose(image, View(brightness=brightness)).tolist() == [expected]


def test_other_pixels_need_another_number_of_the_definition():
    """Caches of teachers name the number, so it is raised when these pixels change."""
    assert VIEW_DEFINITION == 3
    (pixels,) = view_pixels(radiograph(), VIEWS[3], [4])
    assert pixels == pytest.approx(np.array(PIXELS_OF_DEFINITION_3), abs=1e-4)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("rotation_deg", 0, 180),
        ("min_scale", 0.1, 1.14),
        ("max_scale", 0.9, 10),
        ("shift", 0, 0.5),
        ("flip_probability", 0, 1),
        ("max_gamma", 1, 10),
        ("max_contrast", 1, 10),
        ("max_stretch", 1, 10),
        ("brightness", 0, 1),
    ],
)
def test_the_ends_of_a_range_are_allowed_and_nothing_beyond(name, low, high):
    for value in (low, high):
        assert getattr(ViewParameters(**{name: value}), name) == value
    for value in (low - 0.01, high + 0.01):
        # A largest scale that is too small is called a smallest scale that is too large.
        with pytest.raises(RecipeError, match=f"{name.removeprefix('max_s')} of the views must be between"):
            ViewParameters(**{name: value})


def test_no_ranges_no_change():
    unchanged = ViewParameters(rotation_deg=0, min_scale=1, max_scale=1, shift=0, max_gamma=1, max_contrast=1)
    assert unchanged.draw(5, 6, 7) == View()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rotation_deg", -1),
        ("min_scale", 0),
        ("min_scale", 1.2),
        ("shift", 0.6),
        ("flip_probability", 1.1),
        ("max_gamma", 0.9),
        ("max_stretch", 0.9),
        ("brightness", -0.1),
    ],
)
def test_a_range_that_makes_no_sense_is_named(name, value):
    with pytest.raises(RecipeError, match=f"{name} of the views .*got {value}"):
        ViewParameters(**{name: value})
