"""Area averages of large radiographs, against padding and averaging in so many words."""

from __future__ import annotations

import numpy as np
import pytest

from mlcak_hf.image_geometry_mlcak import area_resize, fit_to_square
from mlcak_hf.radiographs.resampling import area_overlaps, resample, sample_edges, weights_onto_square


@pytest.mark.parametrize("shape", [(61, 40), (40, 61), (33, 33), (7, 3)])
@pytest.mark.parametrize("fit", ["pad", "squash"])
@pytest.mark.parametrize("size_px", [1, 5, 28, 50])
def test_an_image_lands_on_the_square_as_if_padded_and_averaged(shape, fit, size_px) -> None:
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    weights = weights_onto_square(sample_edges(*shape), size_px, fit)
    expected = area_resize(fit_to_square(image, fit), size_px, size_px)
    np.testing.assert_allclose(resample(image, *weights), expected, atol=2e-6)


def test_rows_become_grey_a_few_at_a_time() -> None:
    codes = np.random.default_rng(0).integers(0, 256, (100, 30)).astype(np.uint16)
    table = np.linspace(1, 0, 256, dtype=np.float32) ** 2
    rows, columns = sample_edges(100, 30)
    weights = area_overlaps(rows, 9), area_overlaps(columns, 9)
    seen: list[int] = []

    def grey(rows: np.ndarray) -> np.ndarray:
        seen.append(len(rows))
        return np.asarray(table[rows])

    np.testing.assert_allclose(resample(codes, *weights, grey=grey), area_resize(table[codes], 9, 9), atol=1e-6)
    assert max(seen) < 100


def haar_free_low_pass(signal: np.ndarray) -> np.ndarray:
    """One level of the 5/3 low-pass filter, mirrored at the ends, sample by sample."""
    n, taps = len(signal), {-2: -1 / 8, -1: 2 / 8, 0: 6 / 8, 1: 2 / 8, 2: -1 / 8}
    result = []
    for centre in range(0, n, 2):
        total = 0.0
        for offset, tap in taps.items():
            at = abs(centre + offset)
            total += tap * signal[2 * (n - 1) - at if at > n - 1 else at]
        result.append(total)
    return np.array(result)


@pytest.mark.parametrize("n", [64, 61, 58])
@pytest.mark.parametrize("reduction", [1, 2, 3])
def test_low_pass_samples_represent_the_pixels_around_them(n, reduction) -> None:
    edges, _ = sample_edges(n, n, reduction)
    assert (edges[0], edges[-1]) == (0, n)
    assert (np.diff(edges) > 0).all()
    ramp = np.linspace(0, 1, n)
    samples = ramp
    for _ in range(reduction):
        samples = haar_free_low_pass(samples)
    assert len(samples) == len(edges) - 1
    centres = (edges[1:-2] + edges[2:-1]) / 2  # of the inner ones, in pixels
    # A ramp shows where a sample lies: its value is that of the ramp at the centre of what it stands for. Block
    # averages would be off by half a step.
    np.testing.assert_allclose(samples[1:-1], np.interp(centres - 0.5, np.arange(n), ramp), atol=2e-3)
