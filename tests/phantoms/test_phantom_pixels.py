"""Findings are drawn in their boxes, polarity is right in every format, and the anatomy is plausible."""

import numpy as np
import pydicom
import pytest
from scipy.stats import spearmanr

from mlcak_hf.errors import DatasetError
from mlcak_hf.phantoms.plan import DRAWN_FINDINGS, image_id
from mlcak_hf.phantoms.render import render_phantom
from mlcak_hf.radiographs.read import read_radiograph

SEED, SIZE_PX = 5, 128


def inside(boxes, shape, margin=0):
    mask = np.zeros(shape, bool)
    for x0, y0, x1, y1 in boxes:
        mask[
            max(0, int(y0) - margin) : int(np.ceil(y1)) + margin, max(0, int(x0) - margin) : int(np.ceil(x1)) + margin
        ] = 1
    return mask


@pytest.mark.parametrize("name", DRAWN_FINDINGS)
@pytest.mark.parametrize("index", [1, 2, 6])
def test_a_finding_changes_the_pixels_in_its_boxes(name, index):
    without = render_phantom(SEED, "train", index, 256, findings=[])
    shown = render_phantom(SEED, "train", index, 256, findings=[name])
    assert [f.name for f in shown.findings] == [name]
    assert not without.findings
    change = np.abs(shown.pixels - without.pixels)
    mask = inside(shown.findings[0].boxes, change.shape, margin=2)
    assert change[mask].mean() > 4 * change[~mask].mean()
    height, width = change.shape
    for x0, y0, x1, y1 in shown.findings[0].boxes:
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
        assert change[inside([(x0, y0, x1, y1)], change.shape)].max() > 0.02


@pytest.mark.parametrize("name", ["Nodule/Mass", "Pneumothorax", "Pulmonary fibrosis"])
def test_small_findings_leave_mean_and_deviation_alone(name):
    """The change is far below the differences between images, which are about 0.05."""
    for index in range(6):
        without = render_phantom(SEED, "train", index, SIZE_PX, findings=[]).pixels
        shown = render_phantom(SEED, "train", index, SIZE_PX, findings=[name]).pixels
        assert abs(shown.mean() - without.mean()) < 0.004
        assert abs(shown.std() - without.std()) < 0.004


def test_files_contain_what_was_rendered(phantoms):
    """`read_radiograph` recovers the display values through window, rescaling, sign and polarity."""
    exact = bent = 0
    for split, count in (("train", 30), ("test", 12)):
        for index in range(count):
            path = phantoms.output_dir / split / f"{image_id(SEED, split, index)}.dicom"
            ds = pydicom.dcmread(path, stop_before_pixels=True)
            rendered = render_phantom(SEED, split, index, SIZE_PX).pixels
            read = read_radiograph(path)
            assert read.shape == rendered.shape
            if "VOILUTSequence" in ds or ds.get("VOILUTFunction") == "SIGMOID":
                shown = (rendered > 0) & (rendered < 1)  # nonlinear, but monotonic
                assert spearmanr(read[shown], rendered[shown]).statistic > 0.99
                bent += 1
                continue
            rendered = np.clip(rendered, 0, 1)
            exact += 1
            assert np.abs(read - rendered).max() < 1.1 / (0.4 * 2**ds.BitsStored) + 1e-3
    assert exact >= 30
    assert bent >= 2


def test_lungs_are_dark_and_the_heart_is_bright():
    """Compared at the middle of the lungs and at the spine, in several patients."""
    for index in range(8):
        phantom = render_phantom(SEED, "test", index, SIZE_PX, findings=[])
        height, width = phantom.pixels.shape
        row = phantom.pixels[int(0.42 * height)]
        spine = row[int(0.47 * width) : int(0.53 * width)].mean()
        lungs = min(row[int(0.2 * width) : int(0.4 * width)].mean(), row[int(0.6 * width) : int(0.8 * width)].mean())
        assert spine > lungs + 0.15
        assert phantom.pixels.dtype == np.float32


def test_size_varies_around_the_requested_one_and_shapes_differ():
    shapes = [render_phantom(SEED, "train", index, 96, findings=[]).pixels.shape for index in range(12)]
    assert all(0.9 * 96 <= min(shape) <= 1.15 * 96 for shape in shapes)
    assert len(set(shapes)) > 6
    assert any(h > w for h, w in shapes)
    assert any(w > h for h, w in shapes)


def test_a_finding_that_phantoms_cannot_show_is_refused():
    with pytest.raises(DatasetError, match="Edema"):
        render_phantom(findings=["Edema"])
