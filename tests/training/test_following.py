"""What is logged during training: where the time goes, and which image broke it."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toys import make_trainer, toy_collator, toy_model, toy_rows
from transformers import TrainerCallback

from mlcak_hf.data.views import ViewParameters
from mlcak_hf.distillation.finite_check import not_finite_message, rows_not_finite
from mlcak_hf.errors import DistillationError
from mlcak_hf.training import callbacks
from mlcak_hf.training.callbacks import EpochCallback


class Named(list):
    """Rows that know the names of their images, as RadiographDataset does."""

    def image_name(self, index: int) -> str:
        return f"image-{index}"


def training_logs(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


# Time


class Clock:
    """Stands for `time` where steps are timed: nothing but `work` takes any."""

    now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s

    def work(self, seconds: float) -> None:
        self.now_s += seconds


def test_the_shares_of_a_steps_time_are_logged(tmp_path, monkeypatch):
    """Three batches of 0.1 s and three of the teacher's 0.05 s; the 0.3 s of every log lie between steps."""
    clock, collator = Clock(), toy_collator()
    monkeypatch.setattr(callbacks, "time", clock)

    class SlowLog(TrainerCallback):
        def on_log(self, *arguments, **options):
            clock.work(0.3)

    def slow_collator(rows):
        clock.work(0.1)
        return collator(rows)

    teacher = toy_model(32, 4, layers=4, seed=2)
    teacher.register_forward_pre_hook(lambda *arguments: clock.work(0.05))
    trainer = make_trainer(
        tmp_path, teacher=teacher, rows=toy_rows(12), collator=slow_collator, callbacks=[SlowLog()], max_steps=3
    )
    trainer.train()
    logs = training_logs(trainer)
    step_s = [4 / entry["images_per_second"] for entry in logs]
    waited = [entry["data_wait_share"] * seconds for entry, seconds in zip(logs, step_s, strict=True)]
    taught = [entry["teacher_share"] * seconds for entry, seconds in zip(logs, step_s, strict=True)]
    assert len(logs) == 3
    assert sum(waited) == pytest.approx(0.3, rel=1e-3)
    assert taught == pytest.approx([0.05] * 3, rel=1e-3)
    assert sum(step_s) == pytest.approx(0.45, rel=1e-3)


def test_without_a_teacher_its_share_is_not_logged(tmp_path):
    trainer = make_trainer(tmp_path, teacher=None, max_steps=1)
    trainer.train()
    assert "teacher_share" not in training_logs(trainer)[0]
    assert training_logs(trainer)[0]["images_per_second"] > 0


# NaN and Inf


def test_a_broken_student_stops_the_training_and_names_the_images(tmp_path):
    student = toy_model(seed=1)
    with torch.no_grad():
        student.classifier.weight[0, 0] = math.inf
    trainer = make_trainer(tmp_path, student, rows=Named(toy_rows(4)))
    with pytest.raises(DistillationError) as raised:
        trainer.train()
    message = str(raised.value)
    assert "step 1" in message
    assert "student's logits" in message
    assert "teacher" not in message
    assert "Images (4 of 4)" in message
    assert all(f"image-{index}" in message for index in range(4))
    assert trainer.state.global_step == 0, "no weight has changed"


def test_a_broken_teacher_is_named_not_the_student(tmp_path):
    teacher = toy_model(32, 4, layers=4, seed=2)
    with torch.no_grad():
        teacher.local_classifier.bias[1] = math.nan
    with pytest.raises(DistillationError, match=r"teacher's local_logits.*row 0.*Check the teacher's weights"):
        make_trainer(tmp_path, teacher=teacher, rows=toy_rows(4)).train()


class BrokenPixels:
    """A collator that spoils the image of row 2."""

    def __init__(self):
        self.collator = toy_collator()

    def __call__(self, rows):
        batch = self.collator(rows)
        batch["pixel_values"][batch["index"] == 2] = np.nan
        return batch


def test_only_the_broken_image_is_named(tmp_path):
    with pytest.raises(DistillationError, match=r"in pixel_values\. .*Images \(1 of 4\): image-2\. Check these"):
        make_trainer(tmp_path, rows=Named(toy_rows(4)), collator=BrokenPixels()).train()


def test_rows_with_nan_or_inf_are_found_and_explained():
    tensors = {
        "logits": torch.tensor([[1.0, 2.0], [math.nan, 0.0], [0.0, -math.inf]]),
        "pixels": torch.zeros(3, 1, 2, 2),
        "labels": torch.tensor([1, 2, 3]),
        "weights": torch.tensor([1.0, 1.0, math.inf]),
        "attentions": (torch.zeros(3),),
        "loss": torch.tensor(math.nan),
    }
    assert rows_not_finite(tensors) == {"logits": [1, 2], "weights": [2]}
    message = not_finite_message(7, {}, [f"image-{i}" for i in range(30)], "Look")
    assert "the loss only" in message
    assert "Images (30 of 30)" in message
    assert message.count("image-") == 20


# Trackers


class Tracker(TrainerCallback):
    """Keeps what every tracker behind `report_to` is given."""

    def __init__(self):
        self.logs: list[dict] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))


def test_a_tracker_is_given_every_value(tmp_path):
    tracker = Tracker()
    metrics = {"auroc_global": 0.75, "auroc_local_macro": 0.5}
    trainer = make_trainer(
        tmp_path,
        evaluate=toy_rows(6, seed=9),
        callbacks=[tracker],
        num_train_epochs=2,
        eval_strategy="epoch",
    )
    trainer.compute_metrics = lambda predictions: dict(metrics)
    trainer.train()
    steps = [logs for logs in tracker.logs if "loss" in logs]
    parts = {"loss", "loss_global", "loss_local", "distil_global", "distil_local", "distil_attention"}
    rest = {"learning_rate", "grad_norm", "epoch", "images_per_second", "data_wait_share", "teacher_share"}
    assert all(set(logs) == parts | rest for logs in steps)
    evaluations = [logs for logs in tracker.logs if "eval_loss" in logs]
    assert len(evaluations) == 2
    assert all(logs[f"eval_{name}"] == value for logs in evaluations for name, value in metrics.items())


def test_tensorboard_gets_the_parts_where_it_is_installed(tmp_path, monkeypatch):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tensorboard"))
    make_trainer(tmp_path, max_steps=2, report_to="tensorboard").train()
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for name in ("distil_attention", "teacher_share", "data_wait_share", "images_per_second", "learning_rate"):
        assert len(events.Scalars(f"train/{name}")) == 2


def test_a_run_shorter_than_logging_steps_is_logged(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=4, logging_steps=50)
    trainer.train()
    assert len(training_logs(trainer)) == 4


def test_the_epoch_of_the_views_is_the_whole_part_of_the_progress():
    collator = toy_collator()
    for progress, epoch in ((None, 0), (0.9, 0), (3.0, 3), (3.4, 3), (3.6, 3)):
        EpochCallback(collator).on_epoch_begin(None, SimpleNamespace(epoch=progress), None)
        assert collator.epoch == epoch


def test_views_of_another_seed_are_not_those_of_another_epoch():
    """Otherwise the runs of a comparison over seeds would share their views."""
    views = ViewParameters()
    assert views.draw(0, 1, 5) != views.draw(1, 0, 5)
    assert views.draw(2, 3, 5) != views.draw(3, 2, 5)
