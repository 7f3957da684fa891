"""Views made in batches on a device: within 1/255 of `view_pixels` everywhere, whatever the batch."""

import numpy as np
import pytest
import torch

from mlcak_hf.data.batched_views import DrawnViews, batched_view_pixels
from mlcak_hf.data.view_pixels import view_pixels
from mlcak_hf.data.views import View, ViewParameters
from mlcak_hf.image_processing_mlcak import to_unit_range

SIDES = (28, 56, 112, 224)
EVERYTHING = ViewParameters(
    *(180.0, 0.5, 2.0, 0.3, 0.5, 2.0, 1.8),  # rotation, scales, shift, flip, gamma, contrast
    *(1.6, 0.3),  # stretch, brightness
)


def stored(dtype, side=256, seed=0):
    """White noise, in which every pixel is another, over a wave."""
    wave = np.sin(np.arange(side) / 9)[:, None] + 1
    return (np.random.default_rng(seed).random((side, side)) * wave / 2 * np.iinfo(dtype).max).astype(dtype)


def largest_difference(images, views, sides):
    grey = torch.stack([torch.from_numpy(to_unit_range(image)) for image in images])
    batched = batched_view_pixels(grey, DrawnViews.of(views, range(len(views))), sides)
    singly = zip(*(view_pixels(image, view, sides) for image, view in zip(images, views, strict=True)), strict=True)
    return max(np.abs(ours.numpy() - np.stack(theirs)).max() for ours, theirs in zip(batched, singly, strict=True))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("ranges", [EVERYTHING, ViewParameters()])
def test_every_pixel_is_near_that_of_a_single_view(ranges, dtype):
    views = [ranges.draw(seed=3, epoch=1, index=index) for index in range(6)]
    images = [stored(dtype, seed=index) for index in range(6)]
    assert largest_difference(images, views, SIDES) < 0.05 / 255


@pytest.mark.slow
def test_every_pixel_of_many_views_is_near():
    for start in range(0, 120, 20):
        views = [EVERYTHING.draw(seed=0, epoch=start, index=index) for index in range(20)]
        assert largest_difference([stored(np.uint8, seed=index) for index in range(20)], views, SIDES) < 1 / 255


@pytest.mark.parametrize(
    "views",
    [
        [View(), View(rotation_deg=90.0), View(flip=True), View(scale=0.5)],
        [View(), View(gamma=0.5, brightness=0.1), View(gamma=1.8, contrast=0.7), View(brightness=-0.2)],
        [View(rotation_deg=44.9), View(rotation_deg=45.1), View(rotation_deg=-135.0), View(shift_x=0.5, shift_y=-0.5)],
    ],
    ids=["some stay", "all stay", "turned"],
)
@pytest.mark.parametrize("side", [100, 256])
def test_unmoved_views_edges_and_small_images(views, side):
    assert largest_difference([stored(np.uint8, side) for _ in views], views, (28, 112)) < 0.05 / 255


def test_a_view_does_not_depend_on_its_batch():
    views = [EVERYTHING.draw(seed=0, epoch=0, index=index) for index in range(24)]
    grey = torch.stack([torch.from_numpy(to_unit_range(stored(np.uint8, seed=index))) for index in range(24)])
    drawn = DrawnViews.of(views, range(24))
    (together,), (few,) = (batched_view_pixels(grey[part], drawn[part], [56]) for part in (slice(24), slice(5, 8)))
    torch.testing.assert_close(together[5:8], few, rtol=0, atol=1e-6)


def test_the_views_are_those_that_were_drawn():
    """Another view is far away, so that nearness means something."""
    images, views = [stored(np.uint8)] * 2, [EVERYTHING.draw(0, 0, index) for index in range(2)]
    grey = torch.stack([torch.from_numpy(to_unit_range(image)) for image in images])
    (pixels,) = batched_view_pixels(grey, DrawnViews.of(views, [0, 1]), [28])
    assert (pixels[0] - pixels[1]).abs().max() > 20 / 255
