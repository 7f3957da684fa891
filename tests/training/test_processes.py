"""Two real processes give what one gives, to rounding: gradients, weights after SGD steps, logs, evaluation."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import assert_close
from train_in_processes import main

SCRIPT = Path(__file__).with_name("train_in_processes.py")


def launch(processes: int, output: Path, *sizes: int, script: Path = SCRIPT) -> dict:
    # accelerate's --cpu would start MPI; its launcher for GPUs starts two processes on a CPU just as well. Port 0 lets
    # the system pick: several test runs may go on at once.
    options = ["--multi_gpu", "--num_processes", processes, "--main_process_port", 0, "--num_machines", 1]
    options += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    command = [sys.executable, "-m", "accelerate.commands.launch", *options, script, output, *sizes]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    run = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr[-3000:]
    return torch.load(output, weights_only=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "batch", "steps", "choices"),
    # 10 images: one process fills its second batch with two repeats. 7 images: the other one's are all repeats.
    [
        pytest.param(10, 3, 2, {}, id="uneven"),
        pytest.param(7, 3, 2, {}, id="repeats only"),
        pytest.param(7, 3, 2, {"cached": 1}, id="from a cache"),
        pytest.param(10, 3, 2, {"conv": 1}, id="convolutional trunk"),
        pytest.param(7, 3, 2, {"both": 1}, id="a CNN beside an MLCAK teacher, with MixUp"),
        pytest.param(10, 3, 2, {"on_device": 1}, id="views on the device"),
    ],
)
def test_two_processes_equal_one(tmp_path, images, batch, steps, choices):
    names = ("cached", "stop_after", "conv", "both", "on_device")
    two = launch(2, tmp_path / "two.pt", images, batch, steps, *(choices.get(name, 0) for name in names))
    main(str(tmp_path / "one.pt"), images, images, 1, **choices)
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


@pytest.mark.slow
@pytest.mark.parametrize("images", [10, 7], ids=["uneven", "repeats only"])
def test_two_processes_resumed_in_an_epoch_equal_uninterrupted_ones(tmp_path, images):
    """Two steps an epoch, stopped after the first of the second: the last batch's repeats still do not count."""
    whole = launch(2, tmp_path / "whole.pt", images, 3, 1)
    resumed = launch(2, tmp_path / "resumed.pt", images, 3, 1, 0, 3)
    assert len(whole["gradients"]) == 6
    assert len(resumed["gradients"]) == 3
    for name, weight in whole["weights"].items():
        assert torch.equal(resumed["weights"][name], weight), name


@pytest.mark.slow
def test_options_that_change_the_batches_of_two_processes_are_refused(tmp_path):
    messages = launch(2, tmp_path / "refused.pt", script=SCRIPT.with_name("refused_in_processes.py"))
    assert len(messages) == 5
    for name, message in messages.items():
        assert re.search(rf"{name}.* with several processes", message), message
