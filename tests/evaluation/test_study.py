"""A study: its cells, and its tables. The scripts are replaced by fakes, but for one slow test."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import yaml
from datasets import Dataset
from fake_training import fake_training, options_of
from test_protocol import ROWS, protocol

from mlcak_hf.errors import DatasetError, MLCAKError, RecipeError
from mlcak_hf.evaluation.compare import compare
from mlcak_hf.evaluation.localisation import Localisation
from mlcak_hf.evaluation.predictions import ModelPredictions
from mlcak_hf.evaluation.report.wording import footer
from mlcak_hf.evaluation.scores import global_scores
from mlcak_hf.evaluation.study import results
from mlcak_hf.evaluation.study import runner as runner_module
from mlcak_hf.evaluation.study.cells import Study
from mlcak_hf.evaluation.study.page import write_study
from mlcak_hf.evaluation.study.plan import plan, time_rows
from mlcak_hf.evaluation.study.results import collect, pool
from mlcak_hf.evaluation.study.runner import Runner
from mlcak_hf.preparation.group_split import fold_numbers

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# How well a row of the fake training separates the classes.
SKILL = {"teacher": 3.0, "teacher fed 28 px": 0.5, "plain": 1.0, "mlcak": 2.0, "per level": 1.5, "kl": 1.4}
PATIENTS = [f"p{image // 2}" for image in range(240)]
LABELS = np.arange(240) % 2
# Images of a fold that a row was trained on all the same, as if they had a copy.
LEAKED = {}


def fake_evaluation(options):
    name = options["models"].partition("=")[0]
    trained = json.loads((Path(options["models"].partition("=")[2]) / "model.safetensors").read_text())
    assert trained["fold"] == options["fold"], "evaluated on another fold than it was trained without"
    held_out = np.array(fold_numbers(PATIENTS, int(options["folds"]), "folds")) == int(options["fold"])
    found = []
    for row in [name] + [f"{name} fed {px} px" for px in ([options["lowres"]] if "lowres" in options else [])]:
        rng = np.random.default_rng([int(trained["seed"]), len(row)])
        # The noise of an image is the same for all rows, and differs a little between seeds.
        logit = SKILL[row.removesuffix(" 28 px") if row not in SKILL else row] * LABELS
        logit = logit + np.random.default_rng(7).normal(size=240) + 0.1 * rng.normal(size=240)
        ids, scores = np.flatnonzero(held_out), 1 / (1 + np.exp(-logit[held_out]))
        size = 28 if row != "teacher" else 224
        details = {"image_size_px": size, "lowres_px": 28 if "fed" in row else None, "weights": "w"}
        details |= {"trained_on": {"evaluated": LEAKED.get((row, int(options["fold"])), 0)}}
        groups = [PATIENTS[image] for image in ids]
        task = global_scores(scores, LABELS[held_out])
        found.append(ModelPredictions(row, list(map(str, ids)), task, groups=groups, details=details))
    for each in found:
        each.save(Path(options["output"]) / "predictions" / f"{each.name}.npz")
    compare(found, n_draws=40).to_json(Path(options["output"]) / "comparison.json")


@pytest.fixture
def started(monkeypatch):
    """Commands that were started, instead of their processes."""
    commands = []

    def start(self, command, log, worker):
        commands.append(command)
        log.write(" ".join(command))
        (fake_training if command[0].startswith("distillation") else fake_evaluation)(options_of(command))
        return 1.5

    monkeypatch.setattr(Runner, "_start", start)
    monkeypatch.setattr(results, "compare", partial(compare, n_draws=200))
    return commands


def run(folder, *, workers=1, only="0/1", gap_only=False, **changes):
    study = Study(protocol(**changes), folder, gap_only)
    assert Runner(study, EXAMPLES, workers).run(only) == []
    return study


def start_a_cell(study):
    study.cells[0].folder.mkdir(parents=True)
    (study.cells[0].folder / "log.txt").touch()


def test_a_changed_protocol_is_refused_and_the_same_one_is_not(tmp_path):
    (tmp_path / "recipe.yaml").write_text("learning_rate: 0.1\nseed: 4")
    entries = {"student": {"config": str(tmp_path / "recipe.yaml")}}
    start_a_cell(Study(protocol(**entries), tmp_path / "study"))
    Study(protocol(**entries, dataset="elsewhere/chests"), tmp_path / "study")
    for changed in ({"seeds": [0, 1]}, {"rows": ROWS | {"mlcak": {"teacher": "teacher", "gamma": 2}}}, {"folds": 5}):
        with pytest.raises(MLCAKError, match="another protocol; it differs in"):
            Study(protocol(**entries | changed), tmp_path / "study")
    (tmp_path / "recipe.yaml").write_text("learning_rate: 0.2\nseed: 4")
    with pytest.raises(MLCAKError, match="the row 'mlcak'"):
        Study(protocol(**entries), tmp_path / "study")


def test_a_protocol_can_be_replaced_until_a_cell_starts(tmp_path, started):
    Study(protocol(seeds=[5]), tmp_path)
    (tmp_path / "timing.json").write_text('{"plain": {}}')
    Study(protocol(seeds=[5]), tmp_path)
    assert (tmp_path / "timing.json").is_file()
    run(tmp_path, seeds=[0])
    assert not (tmp_path / "timing.json").exists(), "rows of another protocol were timed"
    (tmp_path / "cells" / "plain" / "fold-0" / "seed-0" / "log.txt").unlink()
    with pytest.raises(MLCAKError, match="another protocol"):
        Study(protocol(seeds=[5]), tmp_path)


@pytest.mark.parametrize("dataset", ["/nowhere/chests", "chests.parquet", "data/of/chests"])
def test_a_dataset_that_does_not_exist_is_refused(tmp_path, dataset):
    with pytest.raises(DatasetError, match=f"^There is no dataset at {dataset}."):
        Study(protocol(dataset=dataset), tmp_path / "study")
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_record_is_named_with_what_to_do(tmp_path, started, content):
    study = run(tmp_path, seeds=[0])
    for file in (study.cells[0].folder / "cell.json", tmp_path / "protocol.json"):
        file.write_text(content)
        with pytest.raises(MLCAKError, match=f"^{file} .*Delete it"):
            Study(protocol(seeds=[0]), tmp_path)


def test_a_damaged_timing_is_named_with_what_to_do(tmp_path):
    study = Study(protocol(), tmp_path)
    (tmp_path / "timing.json").write_text("{")
    with pytest.raises(MLCAKError, match=r"timing\.json cannot be read: .* Delete it"):
        plan(study)


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "study"):
        with pytest.raises(MLCAKError, match=f"must be a folder; got {output}"):
            Study(protocol(), output)


def test_a_runner_without_workers_program_or_steps_is_refused(tmp_path):
    study = Study(protocol(), tmp_path)
    with pytest.raises(RecipeError, match="workers must be at least 1; got 0"):
        Runner(study, EXAMPLES, workers=0)
    for launcher in (["nosuchprogram", "-q"], []):
        with pytest.raises(RecipeError, match=f"launcher must start with a program.*got '{' '.join(launcher)}'"):
            Runner(study, EXAMPLES, launcher=launcher)
    with pytest.raises(RecipeError, match=r"timing_steps must be at least 1, or 0 .*; got -5"):
        time_rows(Runner(study, EXAMPLES), -5)


def test_other_images_under_the_same_name_are_refused(tmp_path):
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "chests.parquet").write_text(f"images {number}")
    start_a_cell(Study(protocol(dataset=str(tmp_path / "1" / "chests.parquet")), tmp_path / "study"))
    with pytest.raises(MLCAKError, match="images_sha256"):
        Study(protocol(dataset=str(tmp_path / "2" / "chests.parquet")), tmp_path / "study")


def test_a_cell_is_never_run_twice_and_records_what_it_did(tmp_path, started):
    study = run(tmp_path)
    assert len(study.cells) == 4 * 3 * 3
    assert len(started) == 2 * len(study.cells)
    run(tmp_path)
    assert len(started) == 2 * len(study.cells)
    record = next(cell for cell in study.cells if cell.name == "mlcak, fold 1, seed 2").record
    assert record["seconds"] == {"train": 1.5, "evaluate": 1.5}
    assert "--seed 2" in record["commands"][0]
    assert "--teacher ./cells/teacher/fold-1/seed-2/model" in record["commands"][0]
    assert str(tmp_path) not in json.dumps(record)
    assert len(record["weights_sha256"]) == len(record["predictions_sha256"]["mlcak"]) == 64


def test_a_cell_of_another_protocol_is_refused(tmp_path, started):
    run(tmp_path / "ours")
    other = run(tmp_path / "other", student={"num_train_epochs": 9}).cells[-1]
    shutil.copytree(other.folder, tmp_path / "ours" / other.folder.relative_to(tmp_path / "other"), dirs_exist_ok=True)
    with pytest.raises(MLCAKError, match="holds a cell of another protocol"):
        Study(protocol(), tmp_path / "ours")


def test_a_study_that_stopped_in_a_cell_goes_on_with_that_cell(tmp_path, started, monkeypatch):
    start = Runner._start

    def stop(self, command, log, worker):
        if len(started) == 5:
            raise KeyboardInterrupt
        return start(self, command, log, worker)

    monkeypatch.setattr(Runner, "_start", stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    monkeypatch.setattr(Runner, "_start", start)
    study = run(tmp_path)
    # The third cell was trained but not evaluated: it is not trained again.
    assert len(started) == 2 * len(study.cells)
    assert [cell.record["restarted"] for cell in study.cells[:4]] == [False, False, True, False]


def test_two_processes_on_one_folder_share_the_cells(tmp_path, started, monkeypatch):
    monkeypatch.setattr(runner_module, "_POLL_S", 0.01)
    start = Runner._start
    monkeypatch.setattr(Runner, "_start", lambda *args: (time.sleep(0.01), start(*args))[1])
    others = [threading.Thread(target=run, args=(tmp_path,), kwargs={"workers": 2}) for _ in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert set(Counter(map(tuple, started)).values()) == {1}
    assert all(cell.record for cell in Study(protocol(), tmp_path).cells)


def test_a_failed_cell_is_named_and_its_students_are_not_started(tmp_path, started, monkeypatch):
    start = Runner._start

    def fail(self, command, log, worker):
        if options_of(command).get("fold") == "1" and command[0].endswith("train_teacher.py"):
            raise MLCAKError("exit code 1")
        return start(self, command, log, worker)

    monkeypatch.setattr(Runner, "_start", fail)
    failures = Runner(Study(protocol(seeds=[0]), tmp_path), EXAMPLES).run()
    assert failures[0] == "teacher, fold 1, seed 0: exit code 1"
    assert sorted(failures[1:]) == [
        f"{row}, fold 1, seed 0: not started, a cell that it needs failed." for row in ("mlcak", "per level")
    ]


def test_a_study_whose_cells_all_fail_says_why(tmp_path, monkeypatch, capsys):
    def fail(self, command, log, worker):
        raise MLCAKError("exit code 7, out of memory")

    monkeypatch.setattr(Runner, "_start", fail)
    entries = {"dataset": "nowhere/chests", "baseline": "plain", "rows": {"plain": {}, "x": {}}, "seeds": [0]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(entries | {"folds": 0}))
    command = ["--protocol", tmp_path / "study.yaml", "--output", tmp_path / "study", "--timing_steps", "0"]
    with pytest.raises(MLCAKError, match="must be finished before there is a table"):
        run_in_this_process(None, ["evaluation/study.py", *command], None, 0)
    printed = capsys.readouterr().out
    for row in ("plain", "x"):
        assert f"{row}, fold 0, seed 0: exit code 7, out of memory" in printed


@pytest.mark.parametrize("folder", ["nowhere", "empty"])
def test_a_merge_of_a_folder_without_a_study_is_refused(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    study = Study(protocol(), tmp_path / "study")
    with pytest.raises(MLCAKError, match=f"{folder} holds no study"):
        study.merge(tmp_path / folder)


def test_results_of_two_machines_are_merged(tmp_path, started):
    whole = run(tmp_path / "whole")
    run(tmp_path / "a", only="0/2")
    run(tmp_path / "b", only="1/2")
    ours = Study(protocol(), tmp_path / "a")
    with pytest.raises(MLCAKError, match="must be finished"):
        collect(ours)
    assert ours.merge(tmp_path / "b") == 4 * 3
    assert ours.merge(tmp_path / "b") == 0
    assert collect(ours).tables == collect(whole).tables
    Study(protocol(seeds=[5]), tmp_path / "other")
    with pytest.raises(MLCAKError, match="another protocol"):
        ours.merge(tmp_path / "other")
    found = ours.cells[0].folder / "cell.json"
    found.write_text(found.read_text().replace("1.5", "2.5"))
    with pytest.raises(MLCAKError, match="was run twice"):
        ours.merge(tmp_path / "whole")


def test_joined_predictions_hold_every_image_once_and_rank_it_within_its_fold(tmp_path, started):
    study = run(tmp_path, seeds=[0, 1])
    pooled = {model.run: model for model in pool([cell for cell in study.cells if cell.row.name == "plain"])}
    assert set(pooled) == {"0", "1"}
    expected = []
    for model in pooled.values():
        assert sorted(map(int, model.image_ids)) == list(range(240))
        labels, scores = model.global_task.labels[:, 0], model.global_task.scores[:, 0]
        assert list(labels) == [LABELS[int(image)] for image in model.image_ids]
        folds = [fold_numbers(PATIENTS, 3, "folds")[int(image)] for image in model.image_ids]
        assert list(model.global_task.folds) == folds
        pairs = [(scores[a] > scores[b]) for a in range(240) for b in range(240)
                 if folds[a] == folds[b] and labels[a] > labels[b]]  # fmt: skip
        expected.append(np.mean(pairs))
    table = collect(study).tables[0]
    assert table.row("plain").metrics["auroc_global"].value == pytest.approx(np.mean(expected))
    assert table.row("plain").metrics["auroc_global"].runs == 2
    assert table.n_groups == 120
    assert any("only among those of its fold" in line for line in footer(table))


def test_a_finding_may_have_boxes_in_some_folds_only(tmp_path, started):
    study = run(tmp_path, seeds=[0])
    for cell in study.cells:
        (file,) = cell.prediction_files[:1]
        found = ModelPredictions.load(file)
        each = Localisation(*np.full((4, len(found)), 0.25 * (cell.fold + 1)))
        boxes = [{"": each, "Mass": each}, {"": each, "Nodule": each}, None][cell.fold]
        replace(found, localisation=boxes).save(file)
    (plain,) = pool([cell for cell in study.cells if cell.row.name == "plain"])
    folds = plain.global_task.folds
    assert set(plain.localisation) == {"", "Mass", "Nodule"}
    assert set(plain.localisation["Nodule"].share[folds == 1]) == {0.5}
    assert np.isnan(plain.localisation["Nodule"].share[folds != 1]).all()
    metrics = collect(study).tables[0].row("plain").metrics
    assert metrics["attention_ratio/Mass"].value == pytest.approx(1)
    assert metrics["pointing_game"].value == pytest.approx(3 / 8), "over the images that have boxes"


def test_models_of_the_folds_may_scale_their_scores_differently(tmp_path, started):
    result = collect(run(tmp_path)).tables[0]
    for file in tmp_path.rglob("fold-1/*/evaluation/predictions/*.npz"):
        found = ModelPredictions.load(file)
        replace(found, global_task=replace(found.global_task, scores=found.global_task.scores / 100)).save(file)
    scaled = collect(Study(protocol(), tmp_path)).tables[0]
    for row in ("plain", "mlcak"):
        for metric in ("auroc_global", "average_precision_global", "sensitivity_at_90_specificity_global"):
            assert scaled.row(row).metrics[metric] == result.row(row).metrics[metric]
    assert scaled.differences == result.differences
    assert scaled.recovered == result.recovered
    assert scaled.row("plain").metrics["brier_global"] != result.row("plain").metrics["brier_global"]


def test_the_gap_is_recovered_in_shares_only_where_it_excludes_0(tmp_path, started, monkeypatch):
    result = collect(run(tmp_path / "gap"))
    (table,) = result.tables
    found = {row: table.row(row).metrics["auroc_global"].value for row in ("teacher", "plain", "mlcak")}
    share = next(each.share for each in table.recovered if each.model == "mlcak")
    assert share.value == pytest.approx((found["mlcak"] - found["plain"]) / (found["teacher"] - found["plain"]))
    assert 0 < share.interval.low < share.value < share.interval.high < 1
    assert "Distillation can help. The least gain that" in result.lines[0]
    assert f"mlcak recovers {100 * share.value:.0f} % [{100 * share.interval.low:.0f}, " in " ".join(result.lines)
    monkeypatch.setitem(SKILL, "teacher", SKILL["plain"])
    result = collect(run(tmp_path / "none"))
    assert result.tables[0].recovered == ()
    assert "The teacher is not better beyond noise, so there is nothing to recover." in result.lines[0]
    one_seed = {**ROWS, "teacher": {"kind": "teacher", "seeds": [0]}}
    result = collect(run(tmp_path / "unpaired", rows=one_seed))
    assert result.tables[0].recovered == ()
    assert "No verdict (a single training run)" in result.lines[0]


def test_training_images_among_the_held_out_ones_are_counted_over_the_folds(tmp_path, started, monkeypatch):
    for fold, count in ((0, 2), (2, 1)):
        monkeypatch.setitem(LEAKED, ("mlcak", fold), count)
    result = collect(run(tmp_path))
    assert result.tables[0].row("mlcak").training_images() == 3
    assert result.tables[0].row("plain").training_images() == 0
    verdicts = {each.model: each.no_verdict for each in result.tables[0].differences}
    assert verdicts["mlcak"] == "mlcak was trained on 3 of these images"
    assert verdicts["per level"] == ""


def test_only_named_pairs_are_compared(tmp_path, started):
    (table,) = collect(run(tmp_path)).tables
    assert {(each.model, each.baseline) for each in table.differences} == {
        (row, "plain") for row in ("teacher", "teacher fed 28 px", "mlcak", "per level")
    }


def test_rows_that_teach_nobody_are_compared_with_their_own_baseline(tmp_path, started):
    """As in a learning curve, where each number of images has its own baseline."""
    alone = {"kind": "teacher"}
    rows = {"plain": alone, "teacher": alone, "mlcak": alone, "per level": alone | {"baseline": "teacher"}}
    result = collect(run(tmp_path, rows=rows))
    assert result.lines == (), "no headroom, as there are no students"
    (table,) = result.tables
    assert {(each.model, each.baseline) for each in table.differences} == {
        ("teacher", "plain"),
        ("mlcak", "plain"),
        ("per level", "teacher"),
    }


def test_rows_on_one_fold_have_a_table_of_their_own(tmp_path, started):
    rows = {**ROWS, "per level": {**ROWS["per level"], "folds": [1], "seeds": [0]}}
    first, second = collect(run(tmp_path, rows=rows)).tables
    assert [row.name for row in first.rows] == ["teacher", "teacher fed 28 px", "plain", "mlcak"]
    assert [row.name for row in second.rows] == ["plain", "per level"]
    assert second.n_images < first.n_images == 240
    assert second.differences[0].no_verdict == "a single training run"


def test_gap_only_runs_the_teacher_and_the_plain_student(tmp_path, started):
    result = collect(run(tmp_path, gap_only=True))
    assert {row.name for row in result.tables[0].rows} == {"teacher", "teacher fed 28 px", "plain"}
    assert "headroom from plain to teacher" in result.lines[0]
    before = len(started)
    run(tmp_path)
    assert len(started) == 2 * before  # the other two rows


def test_every_row_tries_the_same_number_of_options_and_keeps_the_best_on_validation(tmp_path, started):
    study = run(tmp_path, tuning=[{"learning_rate": 0.5}, {"learning_rate": 0.01}, {"learning_rate": 0.3}])
    for cell in study.cells:
        assert cell.record["trial"] == {"learning_rate": 0.01}
        assert len(cell.record["validation"]) == (3 if cell.seed == 0 else 1)
        assert json.loads((cell.model / "model.safetensors").read_text())["learning_rate"] == "0.01"
        assert not list(cell.folder.glob("trial-*"))


def test_the_plan_adds_up_hours_and_disk_and_says_where_they_come_from(tmp_path, started):
    study = Study(protocol(), tmp_path)
    assert plan(study)[1:] == ["Hours and disk are unknown, because nothing was timed: set --timing_steps."]
    cost = {"seconds": 600.0, "bytes": 10**6, "images": 1000, "source": "timed over 10 steps"}
    (tmp_path / "timing.json").write_text(json.dumps(dict.fromkeys(ROWS, cost)))
    lines = plan(study, workers=2)
    assert lines[0] == "36 cells, 0 finished, 36 to run:"
    assert lines[1] == "  teacher: 9 x 10.0 minutes (timed over 10 steps)"
    assert lines[5] == "About 6.0 hours in one process, 3.0 in 2."
    assert "0.04 GB for the results" in lines[6]
    assert "0.20 GB for decoded images" in lines[6]
    run(tmp_path, gap_only=True)
    lines = plan(study)
    assert lines[0] == "36 cells, 18 finished, 18 to run:"
    assert [line.split(":")[0].strip() for line in lines[1:-2]] == ["mlcak", "per level"]


def test_only_rows_of_unknown_cost_are_timed(tmp_path, started):
    study = run(tmp_path, gap_only=True)
    whole, timed = Study(protocol(), tmp_path), []
    assert study.folder == whole.folder

    def stop(cell, changes):
        timed.append(cell.row.name)
        return "as far as this test goes"

    runner = Runner(whole, EXAMPLES)
    runner.run_cell = stop
    with pytest.raises(MLCAKError, match="cannot be trained: as far as"):
        time_rows(runner, 2)
    assert timed == ["teacher"], "finished, but it teaches the row to be timed"
    run(tmp_path)
    time_rows(runner, 2)
    assert timed == ["teacher"]


def test_several_rows_may_vary_the_same_choice(tmp_path, started):
    other = {"teacher": "teacher", "attention_loss": "kl", "ablation": "aggregation"}
    study = run(tmp_path, rows=ROWS | {"kl": other})
    page = write_study(study, collect(study))[2].read_text(encoding="utf-8")
    assert "aggregation: kl, AUROC global" in page
    assert "aggregation: per level, AUROC global" in page


def test_the_page_holds_tables_and_figures_and_needs_no_network(tmp_path, started):
    study = run(tmp_path)
    written = write_study(study, collect(study))
    assert [path.name for path in written] == ["study.md", "study.json", "study.html"]
    text, record, page = (path.read_text(encoding="utf-8") for path in written)
    for row in (*ROWS, "teacher fed 28 px"):
        assert f"| {row} (3 runs) |" in text
        assert f"<td>{row}<small>3 seeds" in page
    assert "mlcak recovers" in text
    content = json.loads(record)
    assert len(content["cells"]) == 36
    assert content["protocol"]["protocol_sha256"] == protocol().digest
    assert page.count("<svg") == 3
    assert "AUROC against resolution" in page
    assert len(re.findall(">(?:teacher|plain|mlcak)</text>", page)) == 3, "every row is in the legend"
    assert not re.search(r'(?:src|href)="https?:|<script|@import', page)


def image_rows(count=48):
    rng = np.random.default_rng(0)
    for number in range(count):
        picture = rng.integers(0, 150, (32, 32), dtype=np.uint8) + np.uint8(60 * (number % 2))
        row = {"image_id": str(number), "label": number % 2, "patient": f"p{number // 2}"}
        yield row | {"image": PIL.Image.fromarray(picture)}


def dataset_file(folder, count):
    Dataset.from_list(list(image_rows(count))).to_parquet(folder / "chests.parquet")
    return str(folder / "chests.parquet")


def test_a_rehearsal_is_short_and_says_so(tmp_path, started):
    chests = {"dataset": dataset_file(tmp_path, 240), "data": {"findings_column": "none", "group_column": "patient"}}
    rehearsed = replace(protocol(**chests, student={"cache_views": 8, "max_steps": 5000}), rehearsal=True)
    for row in rehearsed.study_rows:
        assert row.seeds == (0,)
        assert (row.options["max_train_samples"], row.options["num_train_epochs"]) == (32, 2)
        assert "max_steps" not in row.options
        assert row.options.get("cache_views") == (1 if row.kind == "student" else None)
    assert rehearsed.digest != protocol().digest, "its cells are never taken for those of the study"
    study = Study(rehearsed, tmp_path / "study")
    assert Runner(study, EXAMPLES, 1).run() == []
    assert options_of(started[0])["max_train_samples"] == "32"
    assert collect(study).lines[0].startswith("A rehearsal: every model saw at most 32 images twice")


@pytest.mark.parametrize(("folds", "images"), [(0, 36), (2, 18)])
def test_a_rehearsal_of_a_small_dataset_takes_all_its_training_images(tmp_path, folds, images):
    """Of 48 images of 24 patients, half are held out in two folds, and then a quarter for validation."""
    data = {"findings_column": "none", "group_column": "patient", "validation_fraction": "2.5e-1"}
    small = protocol(dataset=dataset_file(tmp_path, 48), data=data, folds=folds, rehearsal=True)
    study = Study(small, tmp_path / "study")
    for cell in study.cells:
        options = options_of(study.training(cell, {}, tmp_path / "model"))
        assert options["max_train_samples"] == str(min(images, 32))


def tiny_size(folder, size):
    backbone = {"model_type": "vit", "image_size": size, "patch_size": 4, "num_channels": 1, "hidden_size": 16}
    backbone |= {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "mlcak", "backbone_config": backbone}))
    settings = {"image_processor_type": "MLCAKImageProcessor", "size": {"height": size, "width": size}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | {"image_mean": [0.4], "image_std": [0.2]}))
    return str(folder)


@pytest.mark.parametrize(
    ("argument", "written"),
    [
        ("out/cells/a", "./cells/a"),
        ("plain=out/cells/a", "plain=./cells/a"),
        ("--output_dir", "--output_dir"),
        ("outside", "outside"),
        ("/somewhere/chests.parquet", "chests.parquet"),
    ],
)
def test_commands_are_kept_without_the_place_of_the_study(argument, written):
    assert runner_module._without_place(argument, Path("out")) == written


def run_in_this_process(self, command, log, worker):
    """Run a real script without starting Python and its libraries again."""
    script = EXAMPLES / command[0]
    spec = importlib.util.spec_from_file_location(f"study_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", list(map(str, command)))
        module.main()
    return 1.0


@pytest.mark.slow
def test_a_study_of_tiny_models_with_the_real_scripts(tmp_path, monkeypatch, capsys):
    Dataset.from_list(list(image_rows())).remove_columns("image_id").to_parquet(tmp_path / "chests.parquet")
    training = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "report_to": "none", "logging_steps": 1}
    training |= {"eval_strategy": "epoch", "save_strategy": "epoch", "learning_rate": 0.003}
    training |= {"load_best_model_at_end": True, "metric_for_best_model": "auroc_global"}
    entries = {
        "dataset": str(tmp_path / "chests.parquet"),
        "baseline": "plain",
        "data": {"findings_column": "none", "group_column": "patient"},
        "folds": 2,
        "seeds": [0],
        "sizes": {8: tiny_size(tmp_path / "size-8", 8)},
        "teacher": training | {"model": tiny_size(tmp_path / "size-16", 16)},
        "student": training,
        "rows": {
            "teacher": {"kind": "teacher", "lowres": [8]},
            "plain": {"alpha": 0, "beta": 0, "gamma": 0},
            "transfer": {"teacher": "teacher", "attention_loss": "transfer", "attention_aggregation": "per_level"},
        },
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(entries, sort_keys=False))
    monkeypatch.setattr(Runner, "_start", run_in_this_process)
    command = ["--protocol", tmp_path / "study.yaml", "--output", tmp_path / "study", "--timing_steps", "2"]
    run_in_this_process(None, ["evaluation/study.py", *command], None, 0)
    printed = capsys.readouterr().out
    assert "6 cells, 0 finished, 6 to run:" in printed
    assert re.search(r"transfer 8 px: 2 x \d+\.\d minutes \(timed over 2 steps\)", printed)
    assert "No verdict (a single training run)" in printed
    content = json.loads((tmp_path / "study" / "study.json").read_text())
    rows = {row["name"]: row for row in content["tables"][0]["rows"]}
    assert list(rows) == ["teacher", "teacher fed 8 px", "plain 8 px", "transfer 8 px"]
    assert content["tables"][0]["n_images"] == 48
    assert content["tables"][0]["n_groups"] == 24
    assert len(content["cells"]) == 6
    assert not list((tmp_path / "study").rglob("checkpoint-*"))
    assert "<svg" in (tmp_path / "study" / "study.html").read_text()
    # A handler left behind would keep the worker processes of a later pool alive when they are terminated.
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


DRIVER = """
import sys
from pathlib import Path
import test_study
from test_study import Runner, Study, protocol
test_study.evaluate_only_as_a_fake()
Runner(Study(protocol(seeds=[0]), sys.argv[1]), sys.argv[2]).run()
"""


def evaluate_only_as_a_fake():
    start = Runner._start

    def start_training(self, command, log, worker):
        if command[0].startswith("distillation"):
            return start(self, command, log, worker)
        fake_evaluation(options_of(command))
        return 0.0

    Runner._start = start_training
    return start


@pytest.mark.slow
def test_a_killed_study_resumes_and_never_trains_a_cell_in_two_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(runner_module, "_POLL_S", 0.05)
    monkeypatch.setattr(Runner, "_start", Runner._start)  # restored at the end
    (tmp_path / "scripts" / "distillation").mkdir(parents=True)
    for script in ("train_teacher.py", "distil_student.py"):
        shutil.copy(Path(__file__).with_name("fake_training.py"), tmp_path / "scripts" / "distillation" / script)
    search = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "study"), str(tmp_path / "scripts")]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": search}, start_new_session=True) as driver:
        second = tmp_path / "study" / "cells" / "teacher" / "fold-1" / "seed-0" / "log.txt"
        while not second.is_file() or "training starts" not in second.read_text():
            assert driver.poll() is None
            time.sleep(0.02)
        driver.send_signal(signal.SIGKILL)
    study = Study(protocol(seeds=[0]), tmp_path / "study")
    assert [cell.name for cell in study.cells if cell.record] == ["teacher, fold 0, seed 0"]
    evaluate_only_as_a_fake()
    # The training process outlives its driver; its cell is left alone until it ends.
    assert Runner(study, tmp_path / "scripts", workers=4).run() == []
    assert all(cell.record for cell in study.cells)
    logs = [(cell.folder / "log.txt").read_text() for cell in study.cells]
    assert {text.count("training starts") for text in logs} == {1}
    assert [cell.name for cell in study.cells if cell.record["restarted"]] == ["teacher, fold 1, seed 0"]


def test_several_processes_may_begin_a_study_at_the_same_moment(tmp_path):
    """Jobs of a cluster's array write the same protocol.json."""
    code = (
        "from pathlib import Path; from mlcak_hf.evaluation.study.cells import write_json\n"
        f"for _ in range(500): write_json(Path({str(tmp_path)!r}) / 'protocol.json', {{'rows': [1] * 1000}})"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["protocol.json"]
