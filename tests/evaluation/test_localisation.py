"""Attention against boxes on cases that can be worked out by hand, and against a painted reference."""

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from mlcak_hf.errors import MLCAKError
from mlcak_hf.evaluation.bootstrap import draw_weights
from mlcak_hf.evaluation.localisation import (
    MarkedImages,
    attention_draws,
    attention_on_boxes,
    box_coverage,
    box_coverages,
    localise,
    overlap,
)
from mlcak_hf.explanation.class_token import class_token_attention
from mlcak_hf.image_geometry_mlcak import map_boxes


def against(maps, boxes, image_size, radiographs):
    """Maps against boxes in model pixels."""
    return localise(maps, *box_coverages(boxes, image_size, maps.shape[1:], radiographs))


def whole(count, size):
    """Edges of radiographs that fill the model's input."""
    return [[0, 0, size, size]] * count


def painted(boxes, size, grid, scale=10):
    """Coverage by painting boxes on a fine raster."""
    canvas = np.zeros((size * scale, size * scale), dtype=bool)
    for box in boxes:
        x_min, y_min, x_max, y_max = (np.array(box) * scale).round().astype(int)
        canvas[max(y_min, 0) : max(y_max, 0), max(x_min, 0) : max(x_max, 0)] = True
    patch = size * scale // grid
    return canvas.reshape(grid, patch, grid, patch).mean(axis=(1, 3))


def test_coverage_equals_a_painted_union():
    rng = np.random.default_rng(0)
    for _ in range(20):
        corners = np.round(rng.uniform(-4, 32, size=(4, 2, 2)), 1)
        boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        assert box_coverage(boxes, (28, 28), (7, 7)) == pytest.approx(painted(boxes, 28, 7), abs=1e-9)


def test_class_token_row_leaves_prefix_tokens_out():
    attention = np.arange(2 * 8 * 8, dtype=float).reshape(2, 8, 8)
    grid = class_token_attention(attention, 2, (2, 3))
    assert grid.shape == (2, 2, 3)
    assert grid[1].ravel().tolist() == attention[1, 0, 2:].tolist()
    with pytest.raises(MLCAKError, match="1 \\+ 2 \\* 3 tokens"):
        class_token_attention(attention, 1, (2, 3))


def test_share_against_area_and_pointing():
    attention = np.zeros((3, 4, 4))
    attention[0, 0, 0], attention[0, 3, 3] = 0.6, 0.2  # three quarters in the box
    attention[1] = 1 / 16  # ignores the box
    attention[2, 2, 2] = 0.5
    boxes = [[[0, 0, 4, 4]], [[4, 0, 8, 8]], []]
    result = against(attention, boxes, (16, 16), whole(3, 16))
    assert result.share[:2] == pytest.approx([0.75, 1 / 8])
    assert result.area[:2] == pytest.approx([1 / 16, 1 / 8])
    assert result.hit[:2] == pytest.approx([1, 1 / 8])  # a sixteen-fold tie, two of them in the box
    assert result.chance[:2] == pytest.approx([1 / 16, 1 / 8])
    assert np.isnan(result)[:, 2].all()
    metrics = attention_draws({"": result}, draw_weights(range(3), 40))
    assert metrics["attention_ratio"].value == pytest.approx((0.75 + 0.125) / (1 / 16 + 1 / 8))
    assert metrics["pointing_game"].value == pytest.approx((1 + 1 / 8) / 2)
    assert metrics["pointing_game_chance"].value == pytest.approx((1 / 16 + 1 / 8) / 2)


def test_even_attention_has_ratio_one_whatever_the_boxes():
    rng = np.random.default_rng(0)
    boxes = [np.sort(rng.uniform(0, 28, (1, 2, 2)), axis=1).reshape(1, 4) for _ in range(50)]
    result = against(np.ones((50, 7, 7)), boxes, (28, 28), whole(50, 28))
    assert result.share == pytest.approx(result.area, abs=1e-12)


def test_nothing_to_against():
    assert np.isnan(against(np.ones((2, 7, 7)), [[], [[30, 30, 40, 40]]], (28, 28), whole(2, 28))).all()
    with pytest.raises(MLCAKError, match="positive, finite sum; got 0"):
        against(np.zeros((1, 7, 7)), [[[0, 0, 9, 9]]], (28, 28), whole(1, 28))


def test_uniform_attention_scores_one_on_a_padded_radiograph():
    # 2880 x 2304 pixels padded to a square: the box fills a quarter of the radiograph, and a fifth of the square.
    original = (2880, 2304)
    edges = map_boxes([[0, 0, 2304, 2880]], original, (28, 28), "pad")
    box = map_boxes([[0, 0, 1152, 1440]], original, (28, 28), "pad")
    result = against(np.ones((1, 7, 7)), [box], (28, 28), edges)
    assert result.share == pytest.approx(result.area, abs=1e-12)
    assert result.area[0] == pytest.approx(0.25)
    assert against(np.ones((1, 7, 7)), [box], (28, 28), whole(1, 28)).area[0] == pytest.approx(0.2)


def test_attention_on_the_padding_does_not_count():
    attention = np.zeros((1, 4, 4))
    attention[0, 1, 0], attention[0, 1, 1], attention[0, 2, 2] = 9.0, 3.0, 1.0  # the first column is padding
    result = against(attention, [[[4, 4, 8, 8]]], (16, 16), [[4, 0, 12, 16]])
    assert result.share[0] == pytest.approx(3 / 4)
    assert result.hit[0] == 1.0
    assert (result.area[0], result.chance[0]) == (1 / 8, 1 / 8)


def test_a_patch_that_a_box_only_touches_is_a_hit_in_the_pointing_game():
    attention = np.zeros((1, 4, 4))
    attention[0, 0, 0] = 1.0
    result = against(attention, [[[3, 3, 9, 9]]], (16, 16), whole(1, 16))  # a sixteenth of the first patch
    assert result.hit[0] == 1.0
    assert result.chance[0] == 9 / 16


def test_each_finding_is_compared_with_its_own_boxes():
    attention = np.zeros((2, 2, 2))
    attention[:, 0, 0] = 1.0
    corner = {"x_min": 0, "y_min": 0, "x_max": 4, "y_max": 4}
    far = {"x_min": 4, "y_min": 4, "x_max": 8, "y_max": 8}
    images = [[{"finding": "Nodule", **corner}, {"finding": "Edema", **far}], [{"finding": "Edema", **corner}]]
    size = {"original_height": 8, "original_width": 8}
    rows = Dataset.from_list([{"boxes": boxes, **size} for boxes in images])
    found = attention_on_boxes(attention, rows, 8, "pad")
    assert list(found) == ["", "Edema", "Nodule"]
    assert found["Nodule"].hit.tolist() == pytest.approx([1.0, np.nan], nan_ok=True)
    assert found["Edema"].hit.tolist() == [0.0, 1.0]
    assert found[""].share.tolist() == [1.0, 1.0]
    assert attention_on_boxes(attention, Dataset.from_list([{"boxes": [], **size}] * 2), 8, "pad") is None


def test_overlap_is_intersection_over_union_within_the_radiograph():
    maps = np.zeros((2, 4, 4))
    maps[0, 1, 1], maps[0, 2, 2], maps[0, 0, 0] = 1.0, 0.6, 9.0  # the first column and row are padding
    covered, shown = box_coverages([[[4, 4, 12, 8]], []], (16, 16), (4, 4), [[4, 4, 16, 16]] * 2)
    # 9 patches are on the radiograph, and 2 in the box.
    assert overlap(maps, covered, shown, 0.02) == pytest.approx([1 / 2, np.nan], nan_ok=True)  # the highest patch
    assert overlap(maps, covered, shown, 0.2)[0] == pytest.approx(1 / 3)  # and one beside the box
    assert overlap(maps, covered, shown, 1.0)[0] == pytest.approx(2 / 9)  # the whole radiograph
    # The third is any of seven equal ones, one of them in the box.
    assert overlap(maps, covered, shown, 1 / 3)[0] == pytest.approx((8 / 7) / (3 + 2 - 8 / 7))
    assert overlap(2 * maps, covered, shown, 1 / 3)[0] == overlap(maps, covered, shown, 1 / 3)[0]


def test_boxes_without_original_sizes_are_in_pixels_of_the_stored_image():
    box = {"finding": "Edema", "x_min": 0.0, "y_min": 0.0, "x_max": 10.0, "y_max": 20.0}
    rows = Dataset.from_dict({"boxes": [[box], None], "image": [Image.new("L", (40, 20))] * 2})
    marked = MarkedImages.of_rows(rows, 8, "pad")
    assert marked.radiographs.tolist() == [[0, 2, 8, 6]] * 2
    assert [(name, edges.tolist()) for name, edges in marked.boxes[0]] == [("Edema", [0, 2, 2, 6])]
    assert (marked.boxes[1], marked.findings) == ((), ["Edema"])


def test_a_box_with_a_missing_edge_is_refused():
    box = {"finding": "Edema", "x_min": float("nan"), "y_min": 0.0, "x_max": 10.0, "y_max": 20.0}
    rows = Dataset.from_dict({"boxes": [[box]], "original_height": [20], "original_width": [40]})
    with pytest.raises(MLCAKError, match="four finite edges; those of row 0"):
        MarkedImages.of_rows(rows, 8, "pad")
    with pytest.raises(MLCAKError, match="column `boxes`; it has original_height"):
        MarkedImages.of_rows(rows.remove_columns("boxes"), 8, "pad")


@pytest.mark.parametrize("edges", [{"x_min": 11.0}, {"y_max": -1.0}])
def test_a_box_with_swapped_edges_is_refused(edges):
    good = {"finding": "Edema", "x_min": 0.0, "y_min": 0.0, "x_max": 10.0, "y_max": 20.0}
    rows = Dataset.from_dict(
        {"boxes": [[], [good, good | edges]], "original_height": [20] * 2, "original_width": [40] * 2}
    )
    with pytest.raises(MLCAKError, match=r"x_min <= x_max and y_min <= y_max; row 1 has one with the edges \[.*Swap"):
        MarkedImages.of_rows(rows, 8, "pad")
    MarkedImages.of_rows(rows.select([0]), 8, "pad")


def test_a_map_that_is_not_finite_is_refused():
    with pytest.raises(MLCAKError, match="finite sum; got nan"):
        against(np.full((1, 4, 4), np.nan), [[[0, 0, 4, 4]]], (16, 16), whole(1, 16))
