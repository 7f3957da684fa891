"""Area averages against an obvious double loop; boxes against a rectangle drawn and found again."""

import numpy as np
import pytest

from mlcak_hf import MLCAKImageProcessor
from mlcak_hf.image_geometry_mlcak import area_resize, area_weights, bilinear_weights, map_boxes


def slow_area_resize(image, height, width):
    """Every output pixel is the average of the image over its rectangle, by fractional overlaps."""
    rows, columns = image.shape
    out = np.zeros((height, width))
    for i in range(height):
        top, bottom = i * rows / height, (i + 1) * rows / height
        for j in range(width):
            left, right = j * columns / width, (j + 1) * columns / width
            total = 0.0
            for y in range(rows):
                overlap_y = max(0.0, min(bottom, y + 1) - max(top, y))
                for x in range(columns):
                    total += overlap_y * max(0.0, min(right, x + 1) - max(left, x)) * image[y, x]
            out[i, j] = total / ((bottom - top) * (right - left))
    return out


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((16, 16), (4, 4)),
        ((17, 13), (5, 7)),
        ((10, 12), (7, 9)),
        ((4, 5), (12, 8)),
        ((3, 11), (7, 2)),
        ((1, 1), (3, 2)),
    ],
)
def test_area_resize_is_the_average_over_fractional_overlaps(shape, size):
    image = np.random.default_rng(0).random(shape)
    resized = area_resize(image, *size)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, slow_area_resize(image, *size), atol=1e-6)


@pytest.mark.parametrize(
    ("n_in", "n_out"),
    [(256, 224), (224, 112), (224, 56), (224, 28), (2880, 28), (28, 224), (7, 7), (5, 3), (3000, 224)],
)
def test_weights_average_and_keep_the_mean(n_in, n_out):
    weights = area_weights(n_in, n_out)
    assert weights.shape == (n_out, n_in)
    assert weights.dtype == np.float32
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1, dtype=np.float64), 1, atol=1e-6)
    # Every input sample counts the same: no subsampling.
    np.testing.assert_allclose(weights.sum(axis=0, dtype=np.float64), n_out / n_in, atol=1e-6)
    image = np.random.default_rng(0).random((n_in, n_in))
    assert area_resize(image, n_out, n_out).mean() == pytest.approx(image.mean(), abs=1e-6)


def test_whole_ratios_are_block_means_and_repeats():
    image = np.random.default_rng(0).random((12, 8)).astype(np.float32)
    np.testing.assert_allclose(area_resize(image, 3, 4), image.reshape(3, 4, 4, 2).mean(axis=(1, 3)), atol=1e-6)
    np.testing.assert_allclose(area_resize(image, 36, 16), image.repeat(3, axis=0).repeat(2, axis=1), atol=1e-6)


def test_same_size_is_an_exact_copy():
    image = np.random.default_rng(0).random((2, 9, 7)).astype(np.float32)
    same = area_resize(image, 9, 7)
    np.testing.assert_array_equal(same, image)
    assert not np.shares_memory(same, image)


def test_reducing_in_two_whole_steps_equals_one():
    image = np.random.default_rng(0).random((224, 224))
    twice = area_resize(area_resize(image, 112, 112), 28, 28)
    np.testing.assert_allclose(twice, area_resize(image, 28, 28), atol=1e-6)


def test_batches_have_the_bits_of_single_images():
    images = np.random.default_rng(0).random((3, 2, 33, 47)).astype(np.float32)
    batch = area_resize(images, 10, 20)
    for index in np.ndindex(3, 2):
        np.testing.assert_array_equal(batch[index], area_resize(images[index], 10, 20))
    # Neither does the memory layout of the input change them.
    np.testing.assert_array_equal(area_resize(np.asfortranarray(images), 10, 20), batch)


def test_weights_are_cached_and_cannot_be_spoilt():
    assert area_weights(10, 3) is area_weights(10, 3)
    for weights in (area_weights(10, 3), bilinear_weights(3, 10)):
        with pytest.raises(ValueError, match="read-only"):
            weights[0, 0] = 2
    with pytest.raises(ValueError, match="at least one sample"):
        area_weights(5, 0)
    with pytest.raises(ValueError, match=r"got shape \(5,\)"):
        area_resize(np.zeros(5), 2, 2)


# --- boxes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", ["pad", "squash"])
@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((200, 120), (30, 40, 90, 160)),
        ((121, 200), (0, 0, 100, 50)),
        ((160, 160), (20, 60, 140, 80)),
        ((97, 61), (9, 3, 50, 77)),
    ],
)
@pytest.mark.parametrize("side", [28, 224])
def test_box_lands_where_the_processor_puts_the_rectangle(fit, size, box, side):
    x_min, y_min, x_max, y_max = box
    image = np.zeros(size, dtype=np.float32)
    image[y_min:y_max, x_min:x_max] = 1
    pixels = MLCAKImageProcessor(size={"height": side, "width": side}, fit=fit, do_normalize=False)(image)
    pixels = pixels["pixel_values"][0, 0]
    found = []
    for profile in (pixels.max(axis=0), pixels.max(axis=1)):
        # Area averages leave the covered fraction in the two border pixels: the edges are known to a fraction of one.
        inside = np.flatnonzero(profile > 1e-4)
        first, last = inside[0], inside[-1]
        found.append((first + 1 - profile[first], last + profile[last]))
    (left, right), (top, bottom) = found
    mapped = map_boxes([box], size, (side, side), fit)
    np.testing.assert_allclose(mapped, [[left, top, right, bottom]], atol=1e-3)


@pytest.mark.parametrize("fit", ["pad", "squash"])
@pytest.mark.parametrize("size", [(2880, 2304), (2304, 2880), (1001, 998), (256, 256)])
def test_inverse_undoes_the_mapping(fit, size):
    boxes = np.random.default_rng(0).random((50, 4)) * 900
    there = map_boxes(boxes, size, (224, 224), fit)
    np.testing.assert_allclose(map_boxes(there, size, (224, 224), fit, inverse=True), boxes, atol=1e-9)


def test_the_whole_image_maps_to_its_place_in_the_square():
    whole = [[0, 0, 100, 200]]
    np.testing.assert_allclose(map_boxes(whole, (200, 100), (28, 28), "pad"), [[7, 0, 21, 28]])
    np.testing.assert_allclose(map_boxes(whole, (200, 100), (28, 28), "squash"), [[0, 0, 28, 28]])
    np.testing.assert_allclose(map_boxes(whole, (200, 100), (14, 28), "squash"), [[0, 0, 28, 14]])
    np.testing.assert_allclose(map_boxes(whole, (200, 100), (14, 28), "pad"), [[7, 0, 21, 14]])


def test_boxes_are_checked_and_may_be_none():
    assert map_boxes([], (10, 10), (28, 28), "pad").shape == (0, 4)
    assert map_boxes(np.empty((0, 4)), (10, 10), (28, 28), "squash").shape == (0, 4)
    with pytest.raises(ValueError, match=r"shape \(n, 4\)"):
        map_boxes([[1, 2, 3]], (10, 10), (28, 28), "pad")
    with pytest.raises(ValueError, match=r"shape \(n, 4\)"):
        map_boxes([1, 2, 3, 4], (10, 10), (28, 28), "pad")
    with pytest.raises(ValueError, match="fit must be 'pad' or 'squash'"):
        map_boxes([[1, 2, 3, 4]], (10, 10), (28, 28), "crop")
