"""MixUp: pixels and labels are means of two images, drawn for each image alone."""

import numpy as np
import pytest
import torch
from toys import (
    FINDINGS,
    KeepGradients,
    StopAt,
    assert_close,
    make_trainer,
    toy_collator,
    toy_model,
    toy_rows,
    weights_of,
)

from mlcak_hf import MLCAKConfig
from mlcak_hf.data.mixup import MixUpCollator
from mlcak_hf.distillation.cache.build import CacheOptions, build_teacher_cache
from mlcak_hf.distillation.teachers import Teachers
from mlcak_hf.errors import RecipeError

ROWS = toy_rows(10, seed=5)
CONFIG = MLCAKConfig(local_labels=FINDINGS)


def test_pixels_and_labels_are_means_of_an_image_and_its_partner():
    collator = toy_collator(seed=7)
    mixing = MixUpCollator(collator, ROWS, 0.4, CONFIG)
    mixing.set_epoch(3)
    batch = mixing(ROWS)
    partners, shares = zip(*map(mixing.draw, range(10)), strict=True)
    own, other = collator(ROWS), collator([ROWS[partner] for partner in partners])
    for row, share in enumerate(shares):
        for name in ("pixel_values", "teacher_pixel_values"):
            torch.testing.assert_close(batch[name][row], share * own[name][row] + (1 - share) * other[name][row])
        a, b = int(own["labels"][row]), int(other["labels"][row])
        expected = np.zeros(2) if min(a, b) >= 0 else np.full(2, -1.0)
        for label, weight in ((a, share), (b, 1 - share)) if min(a, b) >= 0 else ():
            expected[label] += weight
        np.testing.assert_allclose(batch["labels"][row], expected, atol=1e-6)
        known = (own["local_targets"][row] >= 0) & (other["local_targets"][row] >= 0)
        mean = share * own["local_targets"][row] + (1 - share) * other["local_targets"][row]
        torch.testing.assert_close(batch["local_targets"][row], mean.where(known, -1.0))
    assert batch["index"].tolist() == list(range(10))
    assert collator.epoch == 3


def test_a_mixture_depends_on_seed_epoch_and_image_alone():
    mixing = MixUpCollator(toy_collator(seed=7), ROWS, 0.4, CONFIG)
    whole, part = mixing(ROWS), mixing(ROWS[6:8])
    for name, value in part.items():
        assert torch.equal(value, whole[name][6:8]), name
    draws = [mixing.draw(index) for index in range(10)]
    mixing.set_epoch(1)
    assert draws != [mixing.draw(index) for index in range(10)]
    assert draws != [MixUpCollator(toy_collator(seed=8), ROWS, 0.4, CONFIG).draw(index) for index in range(10)]


def test_shares_follow_a_beta_distribution():
    mixing = MixUpCollator(toy_collator(), ROWS, 0.5, CONFIG)
    partners, shares = map(np.array, zip(*map(mixing.draw, range(4000)), strict=True))
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.var() == pytest.approx(1 / 8, rel=0.06), "1 / (4 (2 alpha + 1))"
    assert np.bincount(partners, minlength=10).min() > 300


def test_several_global_labels_are_mixed_one_by_one():
    config = MLCAKConfig(problem_type="multi_label_classification", id2label={0: "A", 1: "B"})
    rows = [row | {"labels": np.array([1, -1 if row["index"] % 2 else 0], np.float32)} for row in ROWS]
    mixing = MixUpCollator(toy_collator(), rows, 0.4, config)
    labels = mixing(rows)["labels"]
    torch.testing.assert_close(labels[:, 0], torch.ones(10))
    partners = [mixing.draw(index)[0] for index in range(10)]
    missing = [index % 2 == 1 or partner % 2 == 1 for index, partner in enumerate(partners)]
    assert (labels[:, 1] == -1).tolist() == missing
    assert not all(missing)


def test_accumulation_with_mixup_equals_one_big_batch(tmp_path):
    results = []
    for size, steps in ((10, 1), (4, 3)):
        keep = KeepGradients()
        trainer = make_trainer(
            tmp_path, rows=ROWS, callbacks=[keep], num_train_epochs=2, mixup_alpha=0.4,
            per_device_train_batch_size=size, gradient_accumulation_steps=steps,
        )  # fmt: skip
        trainer.train()
        results.append(keep.steps)
    for several, one in zip(*results, strict=True):
        assert_close(several, one)


def test_training_with_mixup_resumes_bit_for_bit(tmp_path):
    choices = {"rows": ROWS, "mixup_alpha": 0.4, "num_train_epochs": 3, "optim": "adamw_torch"}
    whole = make_trainer(tmp_path / "whole", toy_model(seed=1, dropout=0.2), **choices)
    whole.train()
    make_trainer(tmp_path / "parts", toy_model(seed=1, dropout=0.2), callbacks=[StopAt(4)], **choices).train()
    resumed = make_trainer(tmp_path / "parts", toy_model(seed=1, dropout=0.2), **choices)
    resumed.train(resume_from_checkpoint=True)
    for name, weight in weights_of(resumed).items():
        assert torch.equal(weight, weights_of(whole)[name]), name


def test_evaluation_is_not_mixed(tmp_path):
    plain, mixed = (make_trainer(tmp_path, rows=ROWS, evaluate=ROWS, mixup_alpha=alpha) for alpha in (0.0, 0.4))
    assert plain.evaluate()["eval_loss"] == mixed.evaluate()["eval_loss"]


def test_a_cache_or_other_collators_are_refused(tmp_path):
    teachers, options = Teachers(toy_model(32, 4, seed=2), toy_model(seed=1)), CacheOptions(1, progress_bar=False)
    cache = build_teacher_cache(tmp_path, teachers, ROWS, toy_collator(), options)
    with pytest.raises(RecipeError, match="mixup_alpha must be 0 with a teacher cache"):
        make_trainer(tmp_path, teacher=None, rows=ROWS, teacher_cache=cache, mixup_alpha=0.4)
    with pytest.raises(RecipeError, match="MixUp needs an MLCAKCollator"):
        MixUpCollator(lambda rows: rows, ROWS, 0.4, CONFIG)
    with pytest.raises(RecipeError, match=r"mixup_alpha must be a finite number >= 0; got -1"):
        make_trainer(tmp_path, mixup_alpha=-1)
