"""A moving average of the weights: by hand, in checkpoints, exact when resumed, refused where it is missing."""

import pytest
import torch
from safetensors.torch import load_file
from toys import StopAt, make_trainer, toy_model, toy_rows, weights_of
from transformers import TrainerCallback

from mlcak_hf.errors import DistillationError

ROWS = toy_rows(11, seed=5)


class KeepWeights(TrainerCallback):
    """Keeps the trained weights after every step."""

    def __init__(self):
        self.steps = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.steps.append({name: weight.detach().clone() for name, weight in model.named_parameters()})


def averaging(folder, callbacks=None, **choices):
    defaults = {"rows": ROWS, "num_train_epochs": 3, "optim": "adamw_torch", "ema_decay": 0.8}
    return make_trainer(folder, toy_model(seed=1, dropout=0.2), callbacks=callbacks, **defaults | choices)


def average_by_hand(start, steps, decay=0.8):
    average = dict(start)
    for step, weights in enumerate(steps, start=1):
        d = min(decay, (1 + step) / (10 + step))
        average = {name: d * average[name] + (1 - d) * weights[name] for name in average}
    return average


def test_the_trained_model_is_the_average_and_training_is_the_same(tmp_path):
    keep, plain = KeepWeights(), KeepWeights()
    trainer = averaging(tmp_path, [keep])
    start = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    averaging(tmp_path, [plain], ema_decay=0.0).train()
    assert all(torch.equal(keep.steps[-1][name], weight) for name, weight in plain.steps[-1].items())
    expected = average_by_hand(start, keep.steps)
    for name, weight in trainer.model.named_parameters():
        torch.testing.assert_close(weight.detach(), expected[name], rtol=1e-5, atol=1e-6, msg=name)
    trainer.save_model(tmp_path / "saved")
    assert torch.equal(
        load_file(tmp_path / "saved" / "model.safetensors")["classifier.weight"], trainer.model.classifier.weight
    )
    assert not (tmp_path / "saved" / "trained_weights.pt").exists()


@pytest.mark.parametrize("stop", [4, 6], ids=["inside an epoch", "between epochs"])
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, stop):
    whole = averaging(tmp_path / "whole")
    whole.train()
    averaging(tmp_path / "parts", [StopAt(stop)]).train()
    resumed = averaging(tmp_path / "parts")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step == 9
    for name, weight in weights_of(resumed).items():
        assert torch.equal(weight, weights_of(whole)[name]), name


def test_the_average_is_evaluated_and_the_best_one_comes_back(tmp_path):
    judgements = iter([3.0, 2.0, 1.0, 0.0])
    keep = KeepWeights()
    trainer = averaging(
        tmp_path, [keep], evaluate=toy_rows(8, seed=9), compute_metrics=lambda _: {"judgement": next(judgements)},
        eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True, metric_for_best_model="judgement",
    )  # fmt: skip
    start = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    best = average_by_hand(start, keep.steps[:3])
    for name, weight in trainer.model.named_parameters():
        torch.testing.assert_close(weight.detach(), best[name], rtol=1e-5, atol=1e-6, msg=name)
    logged = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.evaluate()["eval_loss"] == logged[0]


@pytest.mark.parametrize(("before", "after", "words"), [(0.0, 0.8, "with ema_decay"), (0.8, 0.0, "without ema_decay")])
def test_a_checkpoint_of_the_other_kind_is_refused(tmp_path, before, after, words):
    averaging(tmp_path, [StopAt(4)], ema_decay=before).train()
    with pytest.raises(DistillationError, match=f"Training {words} cannot resume from .*checkpoint-4"):
        averaging(tmp_path, ema_decay=after).train(resume_from_checkpoint=True)
