"""Checkpoints are written atomically, passed over when incomplete, and give the same weights after a kill."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toys import make_trainer, toy_model, toy_rows, weights_of

from mlcak_hf.errors import DistillationError
from mlcak_hf.training import checkpoints
from mlcak_hf.training.checkpoints import find_defect, last_whole_checkpoint

KILL_AND_RESUME = Path(__file__).resolve().parents[2] / "examples" / "benchmarks" / "kill_and_resume.py"


def train(folder, resume=None, **choices):
    choices = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1, "optim": "adamw_torch"} | choices
    trainer = make_trainer(folder, student=toy_model(seed=1, dropout=0.2), **choices)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "run"
    train(folder)
    return folder


class Killed(BaseException):
    """What no clean-up of a killed process would see; here it only leaves the trainer."""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["save_model", "_save_optimizer_and_scheduler", "_save_rng_state"])
def test_a_run_that_dies_while_saving_leaves_no_checkpoint(tmp_path, monkeypatch, when):
    train(tmp_path, max_steps=2)
    trainer = make_trainer(
        tmp_path, student=toy_model(seed=1), max_steps=4, save_strategy="steps", save_steps=1, optim="adamw_torch"
    )
    write = getattr(trainer, when)

    def write_and_die(*arguments, **options):
        write(*arguments, **options)
        raise Killed

    monkeypatch.setattr(trainer, when, write_and_die)
    with pytest.raises(Killed):
        trainer.train(resume_from_checkpoint=True)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2", "unfinished-checkpoint"]
    whole = train(tmp_path / "whole")
    resumed = train(tmp_path, resume=True)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2", "checkpoint-3", "checkpoint-4", "whole"]
    expected = weights_of(whole)
    for name, weight in weights_of(resumed).items():
        assert torch.equal(weight, expected[name]), name


def test_a_complete_checkpoint_has_no_defect(made):
    assert names(made) == [f"checkpoint-{step}" for step in (1, 2, 3, 4)]
    assert find_defect(made / "checkpoint-4") is None
    assert last_whole_checkpoint(made).name == "checkpoint-4"


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("file", "damage", "defect"),
    [
        ("trainer_state.json", Path.unlink, "it has no trainer state"),
        ("trainer_state.json", cut_short, "trainer_state.json is truncated"),
        ("model.safetensors", Path.unlink, "it has no weights"),
        ("model.safetensors", cut_short, "model.safetensors is truncated"),
        ("optimizer.pt", Path.unlink, "it has no optimizer"),
        ("optimizer.pt", cut_short, "optimizer.pt is truncated"),
        ("scheduler.pt", cut_short, "scheduler.pt is truncated"),
        ("rng_state.pth", Path.unlink, "it has no random state"),
    ],
)
def test_an_incomplete_checkpoint_of_another_trainer_is_passed_over(made, tmp_path, caplog, file, damage, defect):
    """As transformers' own trainer leaves it, which writes straight into the folder."""
    folder = tmp_path / "run"
    subprocess.run(["cp", "-r", made, folder], check=True)
    damage(folder / "checkpoint-4" / file)
    logger = checkpoints.logger
    logger.addHandler(caplog.handler)
    try:
        assert last_whole_checkpoint(folder).name == "checkpoint-3"
    finally:
        logger.removeHandler(caplog.handler)
    assert f"checkpoint-4 is incomplete and is passed over: {defect}" in caplog.text
    with pytest.raises(DistillationError, match=f"cannot resume from .*checkpoint-4: {defect}"):
        train(folder, resume=str(folder / "checkpoint-4"))
    resumed = train(folder, resume="true")
    assert find_defect(folder / "checkpoint-4") is None, "it was written again"
    expected = load_file(made / "checkpoint-4" / "model.safetensors")
    for name, weight in load_file(folder / "checkpoint-4" / "model.safetensors").items():
        assert torch.equal(weight, expected[name]), name
    assert resumed.state.global_step == 4


def test_a_run_that_starts_again_renames_the_checkpoints_of_an_earlier_one(tmp_path):
    first = weights_of(train(tmp_path, max_steps=4))
    again = train(tmp_path, max_steps=2, learning_rate=1e-2)
    aside = [f"earlier-checkpoint-{step}" for step in (1, 2, 3, 4)]
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2", *aside]
    assert last_whole_checkpoint(tmp_path).name == "checkpoint-2"
    resumed = train(tmp_path, max_steps=2, learning_rate=1e-2, resume=True)
    for name, weight in weights_of(resumed).items():
        assert torch.equal(weight, weights_of(again)[name]), name
    kept = load_file(tmp_path / "earlier-checkpoint-4" / "model.safetensors")
    assert all(torch.equal(weight, first[name]) for name, weight in kept.items()), "nothing is lost"
    train(tmp_path, max_steps=1)
    assert names(tmp_path) == ["checkpoint-1", *aside], "renamed checkpoints are replaced by the next ones"


def test_without_a_checkpoint_training_starts(tmp_path):
    assert train(tmp_path / "none", resume=True, max_steps=1).state.global_step == 1
    assert train(tmp_path / "none", resume="False", max_steps=1).state.log_history[0]["step"] == 1
    with pytest.raises(DistillationError, match="no such folder"):
        train(tmp_path, resume=str(tmp_path / "checkpoint-7"))


@pytest.mark.parametrize("steps", [{"max_steps": 4}, {"max_steps": -1, "num_train_epochs": 2}], ids=["within", "whole"])
def test_a_finished_run_that_is_resumed_does_no_step(tmp_path, steps):
    """As after a kill between the last checkpoint and saving the model; an epoch has three steps."""
    done = train(tmp_path, **steps)
    again = train(tmp_path, resume=True, **steps)
    assert again.state.global_step == done.state.global_step
    expected = weights_of(done)
    for name, weight in weights_of(again).items():
        assert torch.equal(weight, expected[name]), name


@pytest.mark.parametrize("limit", [1, 2])
def test_old_checkpoints_go_and_the_best_stays(tmp_path, limit):
    judgements = iter([2.0, 3.0, 1.0, 0.0])
    trainer = train(
        tmp_path,
        evaluate=toy_rows(8, seed=9),
        compute_metrics=lambda predicted: {"judgement": next(judgements)},
        eval_strategy="steps",
        eval_steps=1,
        save_total_limit=limit,
        load_best_model_at_end=True,
        metric_for_best_model="judgement",
        greater_is_better=True,
    )
    best = "checkpoint-2"
    assert trainer.state.best_model_checkpoint == str(tmp_path / best)
    assert names(tmp_path) == [best] if limit == 1 else sorted([best, "checkpoint-4"])
    state = json.loads((tmp_path / best / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(tmp_path / best), "not where it was being written"
    saved = load_file(tmp_path / best / "model.safetensors")
    for name, weight in weights_of(trainer).items():
        assert torch.equal(weight, saved[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["online", "cached"])
def test_killed_at_a_random_moment_and_resumed_equals_uninterrupted(tmp_path, teacher):
    """The script by itself is the long version of this: more kills, also without teacher."""
    command = [sys.executable, KILL_AND_RESUME, "--kills", 1, "--steps", 12, "--folder", tmp_path, "--teacher", teacher]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-3000:]
    assert "bit for bit the same" in ran.stdout
