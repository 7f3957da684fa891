"""A collator that leaves the pixels to the device: the batches of the ordinary collator, but for rounding."""

import copy
import pickle

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset, Features, Image
from torch.utils.data import DataLoader

from mlcak_hf import MLCAKImageProcessor
from mlcak_hf.data import device_views
from mlcak_hf.data.collator import MLCAKCollator
from mlcak_hf.data.decoded_images import decode_once
from mlcak_hf.data.device_views import DeviceImages, DeviceViewCollator, device_memory_shortage
from mlcak_hf.data.views import ViewParameters
from mlcak_hf.errors import DatasetError

CPU = torch.device("cpu")


def processor(side, **settings):
    return MLCAKImageProcessor(size={"height": side, "width": side}, **settings)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Images of two sizes and two depths."""
    rng = np.random.default_rng(0)
    kinds = [(64, np.uint8), (80, np.uint8), (64, np.uint16)]
    images = [rng.integers(0, np.iinfo(kind).max, (side, side)).astype(kind) for side, kind in 3 * kinds]
    columns = {"image": [PIL.Image.fromarray(image) for image in images]}
    rows = Dataset.from_dict(columns, features=Features({"image": Image()}))
    return decode_once(rows, processor(28), folder=tmp_path_factory.mktemp("decoded"))


@pytest.fixture
def collators(stored):
    teachers = [processor(56, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]), processor(32, lowres=16)]
    usual = MLCAKCollator(processor(28, do_normalize=False), teachers, ViewParameters(), seed=5)
    return usual, DeviceViewCollator(usual, DeviceImages(stored, CPU))


def rows_of(stored, chosen):
    return [{"index": i, "labels": i % 2, "local_targets": np.array([i, -1.0]), "decoded": stored[i]} for i in chosen]


def without_images(rows):
    return [{name: value for name, value in row.items() if name != "decoded"} for row in rows]


@pytest.mark.parametrize("chosen", [range(9), [3], [8, 1, 5]])
def test_it_gives_the_batch_of_the_ordinary_collator(stored, collators, chosen):
    usual, on_device = collators
    usual.set_epoch(2)
    expected = usual(rows_of(stored, chosen))
    found = on_device.add_pixels(on_device(without_images(rows_of(stored, chosen))))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name].shape, found[name].dtype) == (value.shape, value.dtype), name
        # Pixels are divided by deviations down to 0.2.
        torch.testing.assert_close(found[name], value, rtol=0, atol=0.5 / 255, msg=name)


def test_workers_draw_the_same_views(stored, collators):
    rows, on_device = without_images(rows_of(stored, range(9))), collators[1]
    loader = DataLoader(rows, batch_size=4, collate_fn=on_device, num_workers=2)
    for start, batch in zip((0, 4, 8), loader, strict=True):
        expected = on_device.add_pixels(on_device(rows[start : start + 4]))
        for name, value in on_device.add_pixels(batch).items():
            assert torch.equal(value, expected[name]), name


def test_a_copy_shares_the_images_and_a_pickle_leaves_them_behind(collators):
    on_device = collators[1]
    assert copy.copy(on_device).images is on_device.images
    assert on_device.at_epoch(3).epoch == 3
    assert len(pickle.dumps(on_device.images)) < 2000
    assert pickle.loads(pickle.dumps(on_device)).seed == 5


def test_evaluation_is_that_of_the_ordinary_collator(stored, collators):
    ours, theirs = (each.for_evaluation()(rows_of(stored, [0, 3])) for each in reversed(collators))
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


def test_the_key_of_a_teacher_cache_tells_both_apart(collators):
    usual, on_device = (each.view_key() for each in collators)
    assert usual["definition"] == 3
    assert on_device == usual | {"definition": "3, made on the device"}


def test_a_collator_without_views_is_refused(stored):
    with pytest.raises(DatasetError, match="need a collator with views"):
        DeviceViewCollator(MLCAKCollator(processor(28)), DeviceImages(stored, CPU))


@pytest.mark.parametrize(("free", "short"), [(None, False), (200_000, False), (100_000, True)])
def test_images_must_fit_into_half_of_the_free_memory(stored, monkeypatch, free, short):
    """Three images each of 4,096, 6,400 and 8,192 bytes."""
    monkeypatch.setattr(device_views, "_free_bytes", lambda device: free)
    assert (device_memory_shortage(stored, CPU) is not None) == short
