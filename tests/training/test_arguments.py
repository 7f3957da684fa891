"""Ranges of the training arguments, and the defaults that the Trainer's traps ask for."""

import pytest

from mlcak_hf.errors import RecipeError
from mlcak_hf.training.arguments import MLCAKTrainingArguments


def arguments(tmp_path, **kwargs):
    return MLCAKTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **kwargs)


@pytest.mark.parametrize("choice", [{"label_smoothing_factor": 1.0}, {"ema_decay": -0.1}, {"ema_decay": 1.0}])
def test_smoothing_and_decay_outside_their_range_are_refused(tmp_path, choice):
    with pytest.raises(RecipeError, match="label_smoothing_factor and ema_decay must be at least 0 and below 1"):
        MLCAKTrainingArguments(str(tmp_path), **choice)


def test_the_defaults_keep_what_the_trainer_needs(tmp_path):
    args = arguments(tmp_path)
    assert (args.alpha, args.beta, args.gamma) == (1.0, 1.0, 1.0)
    assert args.remove_unused_columns is False
    assert args.label_names == ["labels", "local_targets"]
    assert args.ddp_find_unused_parameters is False
    assert args.gradient_checkpointing_kwargs == {"use_reentrant": False}
    assert args.distils
    assert not arguments(tmp_path, alpha=0, beta=0, gamma=0).distils


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("alpha", -0.1, "alpha must be a finite number >= 0; got -0.1"),
        ("beta", float("nan"), "beta must be a finite number >= 0; got nan"),
        ("gamma", float("inf"), "gamma must be a finite number >= 0; got inf"),
        ("temperature", 0.0, "temperature must be a finite number > 0; got 0.0"),
        ("logit_loss", "mae", "logit_loss must be 'mse' or 'kl'; got 'mae'"),
        ("attention_loss", "cosine", "attention_loss must be .*'normalized_mse'.*; got 'cosine'"),
        ("attention_aggregation", "max", "attention_aggregation must be .*; got 'max'"),
        ("student_levels", [], r"student_levels must be .*; got \[\]"),
        ("student_levels", [1, 1], r"student_levels must be .*without repeats; got \[1, 1\]"),
    ],
)
def test_a_value_out_of_range_is_named(tmp_path, field, value, message):
    with pytest.raises(RecipeError, match=message):
        arguments(tmp_path, **{field: value})


def test_reentrant_checkpointing_is_refused_while_attention_is_taught(tmp_path):
    reentrant = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    with pytest.raises(RecipeError, match="use_reentrant"):
        arguments(tmp_path, **reentrant)
    with pytest.raises(RecipeError, match="use_reentrant"):
        arguments(tmp_path, gradient_checkpointing=True, gradient_checkpointing_kwargs='{"use_reentrant": true}')
    if hasattr(arguments(tmp_path), "activation_checkpointing"):
        with pytest.raises(RecipeError, match="use_reentrant"):
            arguments(tmp_path, activation_checkpointing=True, activation_checkpointing_kwargs={"use_reentrant": True})
    assert arguments(tmp_path, gamma=0, **reentrant).gradient_checkpointing


def test_fsdp_and_deepspeed_are_refused_with_what_to_use_instead(tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match=r"FSDP is not supported: .*accelerate launch --multi_gpu"):
        arguments(tmp_path, fsdp="full_shard")
    (tmp_path / "deepspeed.json").write_text("{}")
    with pytest.raises(RecipeError, match="DeepSpeed is not supported"):
        arguments(tmp_path, deepspeed=str(tmp_path / "deepspeed.json"))
    for name in ("FSDP", "DEEPSPEED"):
        with monkeypatch.context() as launched:
            launched.setenv(f"ACCELERATE_USE_{name}", "true")
            with pytest.raises(RecipeError, match="is not supported"):
                arguments(tmp_path)


def test_persistent_workers_without_workers_are_switched_off(tmp_path):
    args = arguments(tmp_path, dataloader_num_workers=0, dataloader_persistent_workers=True)
    assert not args.dataloader_persistent_workers


def test_no_more_workers_than_cores_are_started(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1})
    assert arguments(tmp_path, dataloader_num_workers=4).dataloader_num_workers == 2
    assert arguments(tmp_path, dataloader_num_workers=1).dataloader_num_workers == 1


def test_a_missing_tensorboard_is_found_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("mlcak_hf.training.arguments.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"mlcak-hf\[tensorboard\]"):
        MLCAKTrainingArguments(str(tmp_path), use_cpu=True, report_to="tensorboard")


@pytest.mark.parametrize(
    "choices", [{"auto_find_batch_size": True}, {"accelerator_config": {"split_batches": True, "even_batches": False}}]
)
def test_options_that_change_the_batches_of_several_processes_are_accepted_in_one(tmp_path, choices):
    """Two processes refuse them: see test_processes."""
    assert arguments(tmp_path, **choices).world_size == 1
