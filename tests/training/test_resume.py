"""Stopping, resuming and loading the best model lose no weight and change no bit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toys import StopAt, make_trainer, toy_collator, toy_model, toy_rows, views_on_device, weights_of

from mlcak_hf.distillation.cache.build import CacheOptions, build_teacher_cache
from mlcak_hf.distillation.cache.store import TeacherCache
from mlcak_hf.distillation.teachers import Teachers

pytestmark = pytest.mark.slow

ROWS = toy_rows(11, seed=5)


def run(folder, workers, callbacks=None, resume=None, dropout=0.2, collator=None, **choices):
    trainer = make_trainer(
        folder,
        student=toy_model(seed=1, dropout=dropout),
        rows=ROWS,
        collator=toy_collator(seed=7) if collator is None else collator,
        callbacks=callbacks,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        num_train_epochs=3,
        optim="adamw_torch",
        lr_scheduler_type="cosine",
        learning_rate=1e-2,
        dataloader_num_workers=workers,
        **choices,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> TeacherCache:
    """Two views for three epochs."""
    teachers = Teachers(toy_model(32, 4, layers=4, seed=2), toy_model(seed=1))
    folder = tmp_path_factory.mktemp("cache") / "cache"
    return build_teacher_cache(folder, teachers, ROWS, toy_collator(seed=7), CacheOptions(2))


@pytest.mark.parametrize("teacher", ["online", "cached"])
@pytest.mark.parametrize(("workers", "persistent"), [(0, False), (2, False), (2, True)])
@pytest.mark.parametrize("stop", [4, 6], ids=["inside an epoch", "between epochs"])
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, cache, teacher, workers, persistent, stop):
    """Three optimizer steps an epoch, the last with a short micro-batch; dropout and views on."""
    choices = {"teacher_cache": cache, "teacher": None} if teacher == "cached" else {}
    choices["dataloader_persistent_workers"] = persistent
    whole = run(tmp_path / "whole", workers, **choices)
    run(tmp_path / "parts", workers, callbacks=[StopAt(stop)], **choices)
    resumed = run(tmp_path / "parts", workers, resume=str(tmp_path / "parts" / f"checkpoint-{stop}"), **choices)
    assert resumed.state.global_step == whole.state.global_step == 9
    start, expected = weights_of(make_trainer(tmp_path, student=toy_model(seed=1))), weights_of(whole)
    for name, weight in weights_of(resumed).items():
        assert torch.equal(weight, expected[name]), name
    assert sum(not torch.equal(expected[name], start[name]) for name in expected) == len(expected), "all weights moved"


def test_with_views_on_the_device_too(tmp_path):
    def go(folder, **choices):
        collator = views_on_device(toy_collator(seed=7), ROWS, tmp_path / "decoded")
        return run(tmp_path / folder, 2, collator=collator, dataloader_persistent_workers=True, **choices)

    expected = weights_of(go("whole"))
    go("parts", callbacks=[StopAt(4)])
    resumed = go("parts", resume=str(tmp_path / "parts" / "checkpoint-4"))
    for name, weight in weights_of(resumed).items():
        assert torch.equal(weight, expected[name]), name


def test_the_same_seed_gives_the_same_weights(tmp_path):
    ours, again, other = (weights_of(run(tmp_path, workers=0, seed=seed)) for seed in (3, 3, 4))
    assert all(torch.equal(again[name], weight) for name, weight in ours.items())
    assert not all(torch.equal(other[name], weight) for name, weight in ours.items())


def test_persistent_workers_see_the_epoch(tmp_path):
    """Workers that outlive an epoch make the same views as none (dropout draws from another state, so it is off)."""
    expected = weights_of(run(tmp_path, workers=0, dropout=0.0))
    kept = weights_of(run(tmp_path, workers=2, dropout=0.0, dataloader_persistent_workers=True))
    for name, weight in kept.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("model_type", ["vit", "dinov2"])
def test_the_best_model_comes_back_whole(tmp_path, model_type):
    """Judged by a number that falls with every evaluation: the first checkpoint is the best, whatever the losses."""
    judgements = iter([3.0, 2.0, 1.0])
    trainer = make_trainer(
        tmp_path,
        student=toy_model(seed=1, model_type=model_type),
        evaluate=toy_rows(8, seed=9),
        compute_metrics=lambda predicted: {"judgement": next(judgements)},
        max_steps=6,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="judgement",
        greater_is_better=True,
    )
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.name == "checkpoint-2"
    saved, last = load_file(best / "model.safetensors"), load_file(tmp_path / "checkpoint-6" / "model.safetensors")
    assert saved.keys() == trainer.model.state_dict().keys()
    for name, weight in weights_of(trainer).items():
        assert torch.equal(weight, saved[name]), name
    assert any(not torch.equal(saved[name], last[name]) for name in saved if name.startswith("backbone.layer"))
