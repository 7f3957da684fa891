"""The polarity check: chests are told from their negatives, on phantoms and on real radiographs."""

from __future__ import annotations

import numpy as np
import pytest

from mlcak_hf.phantoms.render import render_phantom
from mlcak_hf.radiographs.polarity import brightness_grid, looks_inverted
from mlcak_hf.radiographs.read import read_radiograph


@pytest.fixture(scope="module")
def phantoms() -> list[np.ndarray]:
    return [np.clip(render_phantom(index=i, size_px=96).pixels, 0, 1).astype(np.float32) for i in range(12)]


def test_phantoms_are_upright_and_their_negatives_are_not(phantoms) -> None:
    assert [looks_inverted(image) for image in phantoms] == [False] * len(phantoms)
    assert [looks_inverted(1 - image) for image in phantoms] == [True] * len(phantoms)


@pytest.mark.parametrize("frame", [0.0, 1.0])
def test_a_uniform_frame_is_ignored(phantoms, frame) -> None:
    """Padding is black in an inverted image too, and some collimators are white in an upright one."""
    for image in phantoms:
        framed, negative = (np.pad(x, ((9, 4), (20, 12)), constant_values=frame) for x in (image, 1 - image))
        assert not looks_inverted(framed)
        assert looks_inverted(negative)


def test_contrast_and_size_do_not_matter(phantoms) -> None:
    image = phantoms[0]
    faint = 0.4 + 0.2 * image
    large = np.repeat(np.repeat(image, 3, axis=0), 3, axis=1)
    grid = brightness_grid(image)
    for seen in (faint, large):
        assert np.corrcoef(brightness_grid(seen).ravel(), grid.ravel())[0, 1] > 0.98
        assert not looks_inverted(seen)
        assert looks_inverted(1 - seen)


def test_the_fifths_of_a_picture_are_its_averages() -> None:
    picture = np.kron(np.random.default_rng(0).random((5, 5)), np.ones((16, 16))).astype(np.float32)
    np.testing.assert_allclose(brightness_grid(picture), picture[::16, ::16], atol=0.06)


@pytest.mark.parametrize("image", [np.zeros((40, 30)), np.ones((7, 9)), np.full((1, 1), 0.3)])
def test_an_image_without_contrast_raises_no_alarm(image) -> None:
    assert not looks_inverted(image.astype(np.float32))


def test_an_upside_down_radiograph_is_not_called_inverted(shared_data) -> None:
    paths = sorted((shared_data / "nih-in-vindr-layout" / "test").glob("*.dicom"))[::4]
    assert not [path for path in paths if looks_inverted(np.flipud(read_radiograph(path)))]


def test_real_radiographs_are_distinguished_from_their_negatives(shared_data) -> None:
    """A sample of one in six."""
    paths = sorted((shared_data / "nih-in-vindr-layout" / "train").glob("*.dicom"))[::6]
    images = [read_radiograph(path) for path in paths]
    assert sum(looks_inverted(image) for image in images) <= 1
    assert sum(not looks_inverted(1 - image) for image in images) <= 1
