"""Two real processes give what one gives, to rounding: gradients, weights after SGD steps, logs, evaluation."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from toys import assert_close
from train_in_processes import train

SCRIPT = Path(__file__).with_name("train_in_processes.py")
# 10 images: one process fills its second batch with two repeats. 7 images: the other one's are all repeats.
EQUAL = {
    "uneven": {"images": 10},
    "repeats only": {"images": 7},
    "from a cache": {"images": 7, "cached": 1},
    "convolutional trunk": {"images": 10, "conv": 1},
    "a CNN beside an MLCAK teacher": {"images": 7, "both": 1},
    "views on the device": {"images": 10, "on_device": 1},
}
# Two steps an epoch; one run stops after the first step of the second.
RESUMED = {f"{images} images": {"images": images, "batch": 3, "steps": 1} for images in (10, 7)}
RUNS = {name: {"batch": 3, "steps": 2, **choices} for name, choices in EQUAL.items()}
RUNS |= RESUMED | {f"{name}, resumed": {**choices, "stop_after": 3} for name, choices in RESUMED.items()}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def launch(script: Path, *arguments: object) -> None:
    # accelerate's --cpu would start MPI; its launcher for GPUs starts two processes on a CPU just as well. Port 0 lets
    # the system pick: several test runs may go on at once.
    options = ["--multi_gpu", "--num_processes", 2, "--main_process_port", 0, "--num_machines", 1]
    options += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, script, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    run = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True, timeout=800)
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory) -> Path:
    """What every run gives in two processes, which are started once, whichever worker of pytest comes first."""
    shared = tmp_path_factory.getbasetemp()
    shared = (shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared) / "two-processes"
    with FileLock(f"{shared}.lock"):
        if not (shared / "ended").exists():
            shared.mkdir(exist_ok=True)
            launch(SCRIPT, shared, json.dumps(RUNS))
            (shared / "ended").touch()
    return shared


@pytest.mark.parametrize("name", EQUAL)
def test_two_processes_equal_one(two_processes, tmp_path, name):
    two = torch.load(two_processes / f"{name}.pt", weights_only=False)
    images = EQUAL[name]["images"]
    train(str(tmp_path / "one.pt"), **{**EQUAL[name], "batch": images, "steps": 1})
    one = torch.load(tmp_path / "one.pt", weights_only=False)
    assert (two["world_size"], one["world_size"]) == (2, 1)
    assert not two["teacher_is_wrapped"], "a teacher needs no DistributedDataParallel"
    assert len(two["gradients"]) == len(one["gradients"]) == 3
    for ours, theirs in zip(two["gradients"], one["gradients"], strict=True):
        assert_close(ours, theirs)
    assert_close(two["weights"], one["weights"])
    for ours, theirs in zip(two["logs"], one["logs"], strict=True):
        for name in ("loss", "loss_global", "loss_local", "distil_global", "distil_local", "distil_attention"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name
    assert two["eval_loss"] == pytest.approx(one["eval_loss"], rel=1e-4)
    for ours, theirs in zip(two["predictions"], one["predictions"], strict=True):
        assert ours.shape[0] == 7, "gathered without repeats"
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(two["predicted_labels"], one["predicted_labels"], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", RESUMED)
def test_two_processes_resumed_in_an_epoch_equal_uninterrupted_ones(two_processes, name):
    """The last batch's repeats still do not count."""
    whole, resumed = (torch.load(two_processes / f"{run}.pt", weights_only=False) for run in (name, f"{name}, resumed"))
    assert len(whole["gradients"]) == 6
    assert len(resumed["gradients"]) == 3
    for weight, expected in whole["weights"].items():
        assert torch.equal(resumed["weights"][weight], expected), weight


def test_options_that_change_the_batches_of_two_processes_are_refused(tmp_path):
    launch(SCRIPT.with_name("refused_in_processes.py"), tmp_path / "refused.pt")
    messages = torch.load(tmp_path / "refused.pt", weights_only=False)
    assert len(messages) == 5
    for name, message in messages.items():
        assert re.search(rf"{name}.* with several processes", message), message
