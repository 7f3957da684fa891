"""The picture of a training: drawn from any log, whole, short, resumed or empty."""

import math

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from mlcak_hf.training.curves import _curve, _mark_best, _smooth, draw_training_curves


def log_of(steps: int, epochs: int = 3) -> list[dict]:
    """A log as MLCAKTrainer writes it: steps, an evaluation per epoch, the best model's again, and the summary."""
    log = []
    for step in range(1, steps + 1):
        epoch = epochs * step / steps
        parts = {"loss": 2 / step, "loss_global": 1 / step, "loss_local": 0.5 / step, "distil_attention": 0.1 / step}
        times = {"images_per_second": 100.0, "data_wait_share": 0.05, "teacher_share": 0.6}
        log.append({"epoch": epoch, "step": step, "learning_rate": 1e-3} | parts | times)
        if epoch == int(epoch):
            log.append({"epoch": epoch, "eval_auroc_global": 0.7 + epoch / 20, "eval_auroc_local_macro": None})
    return [*log, {"epoch": float(epochs), "train_loss": 1.0}, {"epoch": float(epochs), "eval_auroc_global": 0.5}]


@pytest.mark.parametrize("log", [[], log_of(3), log_of(300), log_of(300)[100:]], ids=["empty", "few", "many", "end"])
def test_any_log_becomes_a_picture(tmp_path, log):
    draw_training_curves(log, tmp_path / "curves.png", title="student")
    picture = np.asarray(Image.open(tmp_path / "curves.png").convert("L"))
    assert picture.shape[0] > 700
    assert (picture < 128).mean() > 0.002, "something is drawn"


def test_a_curve_is_what_was_logged_once_per_epoch():
    epochs, values = _curve(log_of(30), "eval_auroc_global")
    assert epochs.tolist() == [1, 2, 3]
    assert values == pytest.approx([0.75, 0.8, 0.85]), "the best model's evaluation at the end is not another epoch"
    assert [len(part) for part in _curve(log_of(30), "eval_auroc_local_macro")] == [0, 0]
    assert len(_curve(log_of(30), "loss")[0]) == 30


def test_smoothing_is_a_mean_over_neighbours():
    values = np.random.default_rng(0).random(150)
    expected = [np.mean(values[max(0, i - 2) : i + 3]) for i in range(150)]
    np.testing.assert_allclose(_smooth(values), expected)
    assert _smooth(values[:10]).tolist() == pytest.approx(values[:10].tolist())


def test_a_loss_of_zero_is_drawn_too(tmp_path):
    log = [{"epoch": 1.0, "loss": 0.0, "learning_rate": 0.0}, {"epoch": 2.0, "loss": math.e, "learning_rate": 0.0}]
    draw_training_curves(log, tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").stat().st_size > 1000


@pytest.mark.parametrize("values", [[0.5, 0.6, 0.99], [0.9, 0.6, 0.5], [0.49, 0.5, 0.49]], ids=["last", "first", "low"])
def test_the_best_value_is_named_inside_the_axes(values):
    axes = Figure(figsize=(4, 3)).subplots()
    axes.set(xlim=(1, 3), ylim=(0.48, 1))
    _mark_best(axes, np.array([1.0, 2.0, 3.0]), np.array(values))
    renderer = FigureCanvasAgg(axes.figure).get_renderer()
    text, inside = axes.texts[0].get_window_extent(renderer), axes.bbox
    corners = [inside.x0 <= text.x0, text.x1 <= inside.x1, inside.y0 <= text.y0, text.y1 <= inside.y1]
    assert corners == [True] * 4
