"""A teacher cache: equal to the teacher on the same views, resumable, refused when it is stale or damaged."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from toys import FINDINGS, KeepGradients, assert_close, make_trainer, processor, toy_collator, toy_model, toy_rows

from mlcak_hf.data.collator import MLCAKCollator
from mlcak_hf.data.views import ViewParameters
from mlcak_hf.distillation.attention import AttentionOptions
from mlcak_hf.distillation.cache import build as cache
from mlcak_hf.distillation.cache.build import CacheOptions, build_teacher_cache
from mlcak_hf.distillation.cache.store import CachedCollator, TeacherCache
from mlcak_hf.distillation.losses import AttentionDistillationLoss
from mlcak_hf.distillation.teachers import Teachers
from mlcak_hf.errors import CacheError, DistillationError

ROWS = toy_rows(10)
PARTS = ("loss", "loss_global", "loss_local", "distil_global", "distil_local", "distil_attention")


def toy_teacher(seed=2, **kwargs):
    return toy_model(32, 4, layers=4, seed=seed, **kwargs)


def build(
    folder, teacher=None, student=None, rows=ROWS, collator=None, num_views=2, attention=None, **options
) -> TeacherCache:
    student = toy_model(seed=1) if student is None else student
    return build_teacher_cache(
        folder,
        Teachers(toy_teacher() if teacher is None else teacher, student, attention),
        rows,
        toy_collator() if collator is None else collator,
        CacheOptions(num_views, batch_size=3, progress_bar=False, **options),
    )


def small_shards(monkeypatch, images=4):
    monkeypatch.setattr(cache, "_MIN_SHARD_IMAGES", images)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A cache of two views of ten images, in three shards."""
    folder = tmp_path_factory.mktemp("cached") / "cache"
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_shards(monkeypatch)
        build(folder)
    return folder


@pytest.fixture
def whole(built, tmp_path, monkeypatch):
    """A copy of it that a test may spoil."""
    small_shards(monkeypatch)
    return shutil.copytree(built, tmp_path / "cache")


def bytes_of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def training_logs(trainer):
    return [entry for entry in trainer.state.log_history if "loss" in entry]


# What it holds


@pytest.mark.parametrize("aggregation", ["mean", "per_level"])
def test_a_cache_holds_the_teachers_outputs_for_the_students_views(tmp_path, monkeypatch, aggregation):
    small_shards(monkeypatch)
    teacher, student, collator = toy_teacher(), toy_model(seed=1), toy_collator()
    kept = build(tmp_path, teacher, student, collator=collator, attention=AttentionOptions(aggregation=aggregation))
    assert (kept.num_images, kept.num_views) == (10, 2)
    asked = Teachers(teacher, student, AttentionOptions(aggregation=aggregation))
    for view in range(2):
        collator.set_epoch(view)
        index = [9, 0, 3, 4, 8]
        expected = asked(collator([ROWS[i] for i in index]))
        found = kept.read(index, view)
        torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.local_logits, expected.local_logits, rtol=1e-5, atol=1e-5)
        assert found.attention.dtype == torch.float16
        assert found.attention.shape == (5, 1 if aggregation == "mean" else 2, 17, 17)
        torch.testing.assert_close(found.attention.float(), expected.attention, rtol=1e-3, atol=1e-6)
    assert not torch.equal(kept.read([0], 0).logits, kept.read([0], 1).logits), "views differ"


def test_half_precision_changes_the_attention_loss_by_less_than_a_thousandth(built):
    """In one step, for a student far from the teacher and one at a tenth of its loss."""
    stored = TeacherCache(built).read(range(10), 0).attention
    collator, student = toy_collator(), toy_model(seed=1)
    exact = Teachers(toy_teacher(), student)(collator(ROWS)).attention
    for share in (1.0, 0.3):
        student_map = share * torch.rand(exact.shape, generator=torch.Generator().manual_seed(0)).softmax(-1)
        student_map = student_map + (1 - share) * exact
        for kind in ("mse", "normalized_mse", "kl"):
            loss = AttentionDistillationLoss(kind)
            found, expected = loss(student_map, stored).mean(), loss(student_map, exact).mean()
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=0)


def test_the_size_of_a_cache_is_that_of_its_records(whole):
    """15,000 images, 8 views, 7x7 patches, `mean`: below 1 GB, by the size of a record."""
    record = np.dtype([("logits", "<f4", (2,)), ("local_logits", "<f4", (22,)), ("attention", "<f2", (1, 50, 50))])
    assert record.itemsize * 15_000 * 8 < 1e9
    kept = TeacherCache(whole)
    size = sum(path.stat().st_size for path in whole.glob("shard-*"))
    assert 0 < size - 10 * 2 * kept.record.itemsize < 3 * 1024, "besides the records, a header and a checksum"


def test_a_cache_without_attention_is_small(tmp_path):
    kept = build(tmp_path, attention=AttentionOptions(enabled=False))
    assert kept.read([0], 0).attention is None
    assert kept.record.itemsize == 4 * (2 + len(FINDINGS))


def test_the_mean_of_several_teachers_with_their_own_grids_and_processors(tmp_path):
    fine, coarse = toy_teacher(), toy_model(24, 8, layers=3, seed=5)
    student = toy_model(seed=1)
    collator = MLCAKCollator(processor(16), [processor(32), processor(24)], ViewParameters())
    kept = build(tmp_path, [fine, coarse], student, collator=collator, num_views=1)
    batch = collator(ROWS)
    first, second = (
        Teachers(one, student)({"teacher_pixel_values": batch[name]})
        for one, name in ((fine, "teacher_pixel_values"), (coarse, "teacher_pixel_values_2"))
    )
    found = kept.read(range(10), 0)
    torch.testing.assert_close(found.logits, (first.logits + second.logits) / 2, rtol=1e-5, atol=1e-5)
    assert found.attention.shape == (10, 1, 10, 10), "all on the coarsest grid of the three"
    torch.testing.assert_close(found.attention.float().sum(-1), torch.ones(10, 1, 10), rtol=0, atol=2e-3)
    online = make_trainer(tmp_path / "online", student, [fine, coarse], ROWS, collator, num_train_epochs=1)
    cached = make_trainer(
        tmp_path / "cached", toy_model(seed=1), [fine, coarse], ROWS, collator, teacher_cache=kept, num_train_epochs=1
    )
    for trainer in (online, cached):
        trainer.train()
    for ours, theirs in zip(training_logs(cached), training_logs(online), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)


# Training from it


@pytest.mark.parametrize("choices", [{}, {"dataloader_num_workers": 2, "dataloader_persistent_workers": True}])
def test_cached_training_equals_online_training_on_the_same_views(tmp_path, built, choices):
    """Two epochs, two views: the views of online training. Every part of every step's loss, and the weights."""
    runs = []
    for kept in (None, built):
        keep = KeepGradients()
        trainer = make_trainer(
            tmp_path, toy_model(seed=1), toy_teacher(), ROWS, callbacks=[keep], teacher_cache=kept, **choices
        )
        trainer.train()
        runs.append((training_logs(trainer), keep.steps))
        assert (trainer.teacher is None) == (kept is not None), "with a cache no teacher is kept"
    (online, gradients), (cached, other_gradients) = runs
    assert len(online) == len(cached) == 6
    for ours, theirs in zip(cached, online, strict=True):
        for part in PARTS:
            assert ours[part] == pytest.approx(theirs[part], rel=1e-3), part
    for ours, theirs in zip(other_gradients, gradients, strict=True):
        assert_close(ours, theirs, rtol=1e-3)


def test_later_epochs_see_the_views_again(tmp_path, built):
    """Without learning, epoch 2 has the losses of epoch 0; and epoch 1 has others."""
    trainer = make_trainer(
        tmp_path, toy_model(seed=1), rows=ROWS, teacher_cache=built, learning_rate=0.0, num_train_epochs=3,
        per_device_train_batch_size=10,
    )  # fmt: skip
    trainer.train()
    first, second, third = [entry["distil_global"] for entry in training_logs(trainer)]
    assert third == pytest.approx(first, rel=1e-6)
    assert second != pytest.approx(first, rel=1e-3)


def test_a_cache_needs_no_teacher_and_evaluation_does_not_read_it(tmp_path, built):
    trainer = make_trainer(
        tmp_path, teacher=None, rows=ROWS, teacher_cache=built, evaluate=ROWS[:7], per_device_eval_batch_size=3
    )
    trainer.train()
    assert training_logs(trainer)[-1]["distil_attention"] > 0
    assert "eval_loss" in trainer.evaluate()


def test_training_from_a_cache_makes_no_pixels_for_the_teacher(built):
    batch = CachedCollator(toy_collator(), TeacherCache(built))(ROWS[:2])
    outputs = {"teacher_logits", "teacher_local_logits", "teacher_attention"}
    assert set(batch) == {"pixel_values", "index", "labels", "local_targets"} | outputs


def test_a_cache_with_attention_also_teaches_logits_alone(tmp_path, built):
    trainer = make_trainer(tmp_path, rows=ROWS, teacher_cache=built, gamma=0.0, max_steps=1)
    trainer.train()
    assert "distil_attention" not in training_logs(trainer)[0]


def test_worker_processes_map_the_shards_themselves(built):
    kept = TeacherCache(built)
    expected = kept.read([1, 7], 1)
    packed = pickle.dumps(kept)
    assert len(packed) < 20_000
    assert torch.equal(pickle.loads(packed).read([1, 7], 1).attention, expected.attention)


# Building


class Killed(BaseException):
    """Stands for a process that is gone."""


def test_a_killed_build_resumes_and_writes_the_same_bytes(tmp_path, built, monkeypatch):
    small_shards(monkeypatch)
    folder, write = tmp_path / "cache", cache.CacheFiles.write
    with monkeypatch.context() as dying:

        def die(self, number, records):
            if number == 1:
                (self.folder / ".shard-00001-of-00003.npy.1.partial").write_bytes(b"half a shard")
                raise Killed
            write(self, number, records)

        dying.setattr(cache.CacheFiles, "write", die)
        with pytest.raises(Killed):
            build(folder)
    with pytest.raises(CacheError, match=r"incomplete: [12] of its 3 shards are missing.*with --teacher"):
        TeacherCache(folder)
    made = []
    monkeypatch.setattr(
        cache.CacheFiles, "write", lambda self, number, records: (made.append(number), write(self, number, records))
    )
    build(folder)
    assert 0 not in made, "complete shards are kept"
    assert bytes_of(folder) == bytes_of(built)


def test_a_complete_cache_is_opened_without_loading_the_teacher(tmp_path, whole, monkeypatch):
    toy_teacher().save_pretrained(tmp_path / "teacher")
    monkeypatch.setattr("mlcak_hf.distillation.teachers.load_teacher", lambda teacher: pytest.fail("loaded"))
    kept = build(whole, teacher=str(tmp_path / "teacher"))
    assert kept.num_views == 2, "a folder and the model saved there have one fingerprint"


def test_worker_processes_make_the_same_bytes(tmp_path, built, monkeypatch):
    small_shards(monkeypatch)
    build(tmp_path / "cache", num_workers=2)
    assert bytes_of(tmp_path / "cache") == bytes_of(built)


@pytest.mark.parametrize("change", ["cut", "flip", "swap"])
def test_a_damaged_shard_is_found_before_the_training_and_made_again(tmp_path, whole, built, change):
    first, second = sorted(whole.glob("shard-*"))[:2]
    contents = bytearray(first.read_bytes())
    if change == "cut":
        first.write_bytes(contents[:-100])
    elif change == "flip":
        contents[len(contents) // 2] ^= 1
        first.write_bytes(contents)
    else:
        shutil.copy(second, first)
    with pytest.raises(CacheError, match=r"damaged: shard-00000-of-00003\.npy"):
        make_trainer(tmp_path, rows=ROWS, teacher_cache=whole)
    build(whole)
    assert bytes_of(whole) == bytes_of(built)


def test_a_full_disk_is_reported_before_the_teacher_runs_and_while_writing(tmp_path, monkeypatch):
    full = shutil._ntuple_diskusage(100, 95, 5)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: full)
        patched.setattr(Teachers, "__call__", lambda self, batch: pytest.fail("asked"))
        with pytest.raises(CacheError, match=r"needs .* GB more .* Free some space"):
            build(tmp_path / "early")

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", no_space)
        with pytest.raises(CacheError, match=r"cannot be written \(No space left on device\).*to resume"):
            build(tmp_path / "late")
    assert not list((tmp_path / "late").glob("*partial"))


# Stale caches


def test_every_part_of_the_key_is_checked_by_the_trainer(tmp_path, built):
    def refuses(message, error=CacheError, **changes):
        given = {"student": toy_model(seed=1), "teacher": toy_teacher(), "rows": ROWS} | changes
        with pytest.raises(error, match=message):
            make_trainer(tmp_path, teacher_cache=built, **given)

    refuses(
        r"built from something else \(teacher weights: expected \[\w{12}\.\.\.\], found", teacher=toy_teacher(seed=9)
    )
    refuses("number of images: expected 9, found 10", rows=ROWS[:9])
    refuses(r"stored pixels: expected \w{12}\.\.\., found", rows=toy_rows(10, seed=1))
    refuses("views, seed: expected 1, found 0", collator=toy_collator(seed=1))
    wider = MLCAKCollator(processor(16), processor(32), ViewParameters(rotation_deg=11))
    refuses(r"views, ranges, rotation_deg: expected 11, found 10", collator=wider)
    refuses("teacher processor", collator=toy_collator(teacher_size=24))
    squashed = MLCAKCollator(processor(16), None, ViewParameters())
    squashed.processor.fit = "squash"
    refuses("views, fit: expected squash, found pad", collator=squashed)
    refuses(r"attention grid: expected \[2, 2\], found \[4, 4\]", student=toy_model(16, 8, seed=1))
    refuses(r"attention levels: expected \[\[3\]\], found \[\[1, 3\]\]", student_levels=[1])
    refuses("aggregation: expected per_level, found mean", attention_aggregation="per_level")
    refuses("local findings", error=DistillationError, student=toy_model(seed=1, findings=["Edema"]))
    refuses("student_levels", error=DistillationError, student_levels=[7])
    refuses("MLCAKCollator", collator=lambda rows: {})


def test_labels_and_what_changes_nothing_are_not_in_the_key(tmp_path, whole):
    relabelled = [row | {"labels": 1, "local_targets": np.ones(3, np.float32)} for row in ROWS]
    make_trainer(tmp_path, toy_model(seed=8, local_loss_weight=3.0), rows=relabelled, teacher_cache=whole)
    assert build(whole, rows=relabelled, teacher=toy_teacher(local_loss_weight=2.0)).num_views == 2


def test_a_build_refuses_a_different_cache(whole):
    before = bytes_of(whole)
    for message, changes in {
        "teacher weights": {"teacher": toy_teacher(seed=9)},
        "teacher config": {"teacher": toy_teacher(id2label={0: "No", 1: "Yes"}), "student": None},
        "number of views: expected 3, found 2": {"num_views": 3},
        "precision: expected bfloat16, found float32": {"autocast": torch.bfloat16},
        "views, seed": {"collator": toy_collator(seed=5)},
        "aggregation": {"attention": AttentionOptions(aggregation="per_level")},
    }.items():
        if "student" in changes:
            changes["student"] = toy_model(seed=1, id2label={0: "No", 1: "Yes"})
        with pytest.raises(CacheError, match=message):
            build(whole, **changes)
    assert bytes_of(whole) == before


def test_a_folder_without_a_cache_is_refused(tmp_path, whole):
    with pytest.raises(CacheError, match="no teacher cache in"):
        TeacherCache(tmp_path)
    description = json.loads((whole / "cache.json").read_text())
    for contents in ("{}", "", '{"key": {"format": 2}}', "[]"):
        (whole / "cache.json").write_text(contents)
        with pytest.raises(CacheError, match="must describe a teacher cache"):
            TeacherCache(whole)
    description["key"]["format"] = 0
    (whole / "cache.json").write_text(json.dumps(description))
    with pytest.raises(CacheError, match=r"must have format 2; got 0\. Build it again"):
        TeacherCache(whole)


def test_unsuitable_options_and_data_are_refused_at_once(tmp_path):
    with pytest.raises(CacheError, match="cache_views must be at least 1; got 0"):
        build(tmp_path, num_views=0)
    with pytest.raises(CacheError, match="all views of an image are the same; got 2"):
        build(tmp_path, collator=toy_collator(views=False))
    with pytest.raises(CacheError, match="image processor of each of the 1 teachers"):
        build(tmp_path, collator=toy_collator(teacher_size=None))
    with pytest.raises(CacheError, match="index of row 0 must be 0; got 1"):
        build(tmp_path, rows=ROWS[1:])
    with pytest.raises(DistillationError, match="local findings"):
        build(tmp_path, teacher=toy_teacher(findings=["Edema"]))
    broken = toy_teacher()
    torch.nn.init.constant_(broken.classifier.weight, float("nan"))
    with pytest.raises(CacheError, match=r"logits must be finite; got NaN or Inf for \d+ of \d+ images: row 0, row 1"):
        build(tmp_path / "nan", teacher=broken)


def test_no_path_is_written_into_a_cache(tmp_path):
    toy_teacher().save_pretrained(tmp_path / "a-private-name")
    build(tmp_path / "cache", teacher=tmp_path / "a-private-name")
    assert "a-private-name" not in (tmp_path / "cache" / "cache.json").read_text()
