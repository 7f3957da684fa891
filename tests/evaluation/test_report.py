"""Pairing of predictions, comparisons against values worked out by hand, and what is written to files."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from sklearn.metrics import roc_auc_score

from mlcak_hf.errors import MLCAKError
from mlcak_hf.evaluation.calibration import operating_thresholds
from mlcak_hf.evaluation.compare import compare
from mlcak_hf.evaluation.comparison import Comparison, choose_pairs
from mlcak_hf.evaluation.localisation import Localisation
from mlcak_hf.evaluation.predictions import ModelPredictions, align
from mlcak_hf.evaluation.report.figure import draw_comparison
from mlcak_hf.evaluation.report.tables import markdown, rich_table, write_report
from mlcak_hf.evaluation.report.wording import footer, statements, warnings
from mlcak_hf.evaluation.scores import TaskScores, global_scores, local_scores
from mlcak_hf.probabilities import probabilities

FINDINGS = ("Cardiomegaly", "Nodule/Mass", "Pneumothorax", "Edema")
N = 90


def predictions(name, skill=1.0, run="", noise=0, local=True, **changes):
    """A model of some skill, always on the same images and labels; Pneumothorax is never present, Edema unknown."""
    rng = np.random.default_rng(7)
    labels = (rng.random((N, 4)) < 0.3).astype(int)
    labels[:, 2], labels[:, 3] = 0, -1
    abnormal = rng.integers(0, 2, N)
    shared, shared_local = rng.normal(size=N), rng.normal(size=(N, 4))
    own = np.random.default_rng(noise)
    scores = probabilities(skill * (2 * abnormal - 1) + shared + 0.1 * own.normal(size=N))
    local_scores_ = probabilities(2 * skill * labels + shared_local + 0.1 * own.normal(size=(N, 4)))
    values = {
        "name": name,
        "image_ids": [f"image-{index}" for index in range(N)],
        "global_task": global_scores(scores, abnormal),
        "local_task": local_scores(local_scores_, labels, FINDINGS) if local else None,
        "groups": [f"patient-{index // 2}" for index in range(N)],
        "run": run,
    }
    return ModelPredictions(**{**values, **changes})


def test_saved_predictions_come_back_whole(tmp_path):
    nan = math.nan
    found = Localisation(*(np.append(np.full(N - 1, nan), value) for value in (0.5, 0.25, 1.0, 0.3)))
    model = predictions(
        "a",
        run="2",
        thresholds=np.array([0.4]),
        localisation={"": found, "Edema": found.take(np.arange(N)[::-1])},
        details={"folder": "x"},
    )
    path = tmp_path / "deep" / "predictions.npz"
    model.save(path)
    loaded = ModelPredictions.load(path)
    assert (loaded.name, loaded.run, loaded.details) == ("a", "2", {"folder": "x"})
    assert (loaded.image_ids, loaded.groups) == (model.image_ids, model.groups)
    assert (loaded.global_task.scores == model.global_task.scores).all()
    assert (loaded.local_task.labels == model.local_task.labels).all()
    assert loaded.local_task.names == FINDINGS
    assert loaded.thresholds.tolist() == [0.4]
    assert loaded.localisation[""].chance[-1] == 0.3
    assert loaded.localisation["Edema"].share[0] == 0.5
    bare = predictions("b", local=False, groups=None)
    bare.save(path)
    assert ModelPredictions.load(path).local_task is None


def test_a_file_that_does_not_hold_predictions_is_named(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "other.npz", numbers=np.zeros(3))
    np.savez(tmp_path / "pickle.npz", words=np.array([{"a": 1}], dtype=object))
    for name in ("gone.npz", "text.npz", "other.npz", "pickle.npz"):
        with pytest.raises(MLCAKError, match=f"{name} is not a file of predictions"):
            ModelPredictions.load(tmp_path / name)


def test_predictions_in_another_order_are_paired_by_image_and_finding():
    first, second = predictions("a"), predictions("b", skill=0.5)
    shuffled = second.take(np.random.default_rng(0).permutation(N))
    order = [2, 0, 3, 1]
    task = shuffled.local_task
    shuffled = replace(
        shuffled,
        local_task=TaskScores(task.scores[:, order], task.labels[:, order], tuple(FINDINGS[i] for i in order)),
    )
    aligned = align([first, shuffled])[1]
    assert aligned.image_ids == first.image_ids
    assert (aligned.global_task.scores == second.global_task.scores).all()
    assert (aligned.local_task.scores == second.local_task.scores).all()
    assert compare([first, shuffled]) == compare([first, second])


def test_what_cannot_be_paired_is_refused():
    first = predictions("a")
    with pytest.raises(MLCAKError, match="its images differ, such as 'image-0'"):
        compare([first, predictions("b").take(np.arange(1, N))])
    other_labels = global_scores(first.global_task.scores, 1 - first.global_task.labels[:, 0])
    with pytest.raises(MLCAKError, match="its global labels differ, first 'Abnormal' of image 'image-0'"):
        compare([first, predictions("b", global_task=other_labels)])
    fewer = local_scores(first.local_task.scores[:, :3], first.local_task.labels[:, :3], FINDINGS[:3])
    with pytest.raises(MLCAKError, match="its local labels differ, such as 'Edema'"):
        compare([first, predictions("b", local_task=fewer)])
    with pytest.raises(MLCAKError, match="different groups"):
        compare([first, predictions("b", groups=[str(index) for index in range(N)])])
    with pytest.raises(MLCAKError, match="'image-1' more than once"):
        predictions("b", image_ids=["image-1"] * 2 + [f"image-{index}" for index in range(2, N)])
    with pytest.raises(MLCAKError, match="1 groups"):
        predictions("b", groups=["p"])
    with pytest.raises(MLCAKError, match="'a' twice with run ''"):
        compare([first, first])
    with pytest.raises(MLCAKError, match="baseline must be one of the rows 'a'; got 'c'"):
        compare([first], baseline="c")
    with pytest.raises(MLCAKError, match="no predictions"):
        compare([])


def test_rows_hold_the_metrics_of_each_model():
    model = predictions("a")
    row = compare([model], n_draws=200).rows[0]
    task = model.local_task
    aurocs = [roc_auc_score(task.labels[:, index], task.scores[:, index]) for index in (0, 1)]
    assert row.metrics["auroc/Cardiomegaly"].value == pytest.approx(aurocs[0])
    assert row.metrics["auroc_local_macro"].value == pytest.approx(np.mean(aurocs))
    assert "auroc/Pneumothorax" not in row.metrics
    assert row.metrics["brier_global"].value == pytest.approx(
        np.mean((model.global_task.scores - model.global_task.labels) ** 2)
    )
    for estimate in row.metrics.values():
        if estimate.interval is not None:
            assert estimate.interval.low <= estimate.value <= estimate.interval.high
    assert "attention_ratio" not in row.metrics
    assert "sensitivity_at_threshold_global" not in row.metrics


def test_validation_thresholds_are_used_as_they_are():
    model = predictions("a")
    thresholds = operating_thresholds(model.global_task)
    metrics = compare([replace(model, thresholds=thresholds)], n_draws=100).rows[0].metrics
    scores, labels = model.global_task.scores[:, 0], model.global_task.labels[:, 0]
    assert metrics["sensitivity_at_threshold_global"].value == np.mean(scores[labels == 1] >= thresholds[0])
    assert metrics["specificity_at_threshold_global"].value >= 0.9
    assert compare([replace(model, thresholds=np.array([0.0]))]).rows[0].metrics[
        "specificity_at_threshold_global"
    ].value == pytest.approx(0.0)


def test_single_class_and_unannotated_labels_are_listed():
    comparison = compare([predictions("a")])
    assert comparison.single_class_labels == ("Pneumothorax",)
    assert comparison.unannotated_labels == ("Edema",)
    notes = "\n".join(footer(comparison))
    assert "One class only in this split, no curve defined: Pneumothorax." in notes
    assert "Never annotated in this split: Edema." in notes
    assert "45 patients" in notes
    assert "Fewer than" not in notes


def test_intervals_of_rare_labels_are_called_too_narrow(tmp_path):
    model = predictions("a")
    labels = model.local_task.labels.copy()
    labels[:, 0] = np.arange(N) < 9
    labels[:, 1] = np.arange(N) >= 9
    rare = replace(model, local_task=TaskScores(model.local_task.scores, labels, FINDINGS))
    comparison = compare([rare], n_draws=100)
    assert comparison.rare_labels == ("Cardiomegaly", "Nodule/Mass")
    notes = "\n".join(footer(comparison))
    assert "Fewer than 10 patients of one class: Cardiomegaly, Nodule/Mass." in notes
    assert "Research use only" in notes
    draw_comparison(comparison, tmp_path / "comparison.png")


def test_paired_differences_are_narrower_than_unpaired_ones():
    # Two models that err on the same images: each interval is wide, that of the difference is not.
    comparison = compare([predictions("plain", 0.8), predictions("student", 1.0)], n_draws=500)
    difference = next(d for d in comparison.differences if d.metric == "auroc_global")
    single = comparison.rows[0].metrics["auroc_global"].interval
    paired = difference.estimate.interval
    assert paired.high - paired.low < 0.7 * (single.high - single.low)
    assert difference.estimate.value == pytest.approx(
        comparison.rows[1].metrics["auroc_global"].value - comparison.rows[0].metrics["auroc_global"].value
    )


def seeds(name, skills, **changes):
    """Runs of one row."""
    return [predictions(name, skill, str(run), **changes) for run, skill in enumerate(skills)]


def test_statements_tell_noise_from_difference():
    models = [*seeds("plain", [0.6] * 4), *seeds("same", [0.6] * 4, noise=1), *seeds("better", [2.1] * 4)]
    comparison = compare(models)
    lines = statements(comparison)
    assert len(lines) == 5  # two rows, two metrics, and how a verdict is reached
    assert lines[0].startswith("same - plain, AUROC global: ")
    assert ": within noise (adjusted p " in lines[0]
    assert "; least detectable difference 0." in lines[0]
    assert lines[2].startswith("better - plain, AUROC global: +0.")
    assert "over 4 runs" in lines[2]
    assert "Holm" in lines[-1]
    assert [pair.beyond_noise for pair in comparison.differences] == [False, False, True, True]


def test_every_row_is_compared_with_the_named_row_the_plain_one_or_the_first():
    names = ["teacher", "student-plain", "student"]
    assert choose_pairs(names, "teacher") == [("student-plain", "teacher"), ("student", "teacher")]
    assert choose_pairs(names) == [("teacher", "student-plain"), ("student", "student-plain")]
    assert choose_pairs(["a", "b"]) == [("b", "a")]
    assert choose_pairs(["plain 28", "plain 56"]) == [("plain 56", "plain 28")]
    pairs = compare([predictions(name) for name in names], n_draws=60).differences
    assert [(pair.model, pair.baseline) for pair in pairs[::2]] == choose_pairs(names)


def test_only_the_pairs_that_were_named_are_compared_and_corrected_for():
    models = [run for name, skill in (("a", 0.5), ("b", 0.6), ("c", 0.9)) for run in seeds(name, (skill, skill + 0.1))]
    one, every = compare(models, n_draws=200, pairs=[("c", "b")]), compare(models, n_draws=200, baseline="b")
    assert [(pair.model, pair.baseline) for pair in one.differences] == [("c", "b")] * 2
    same = next(pair for pair in every.differences if (pair.model, pair.metric) == ("c", "auroc_global"))
    assert one.differences[0].estimate == same.estimate
    assert one.differences[0].least_difference < same.least_difference, "two comparisons, not four"
    for pairs, message in (
        ([("c", "d")], r"two of the rows 'a', 'b', 'c'; got 'c' and 'd'"),
        ([("c", "c")], "got 'c' and 'c'"),
        ([("c", "b"), ("b", "c")], "Every pair must occur once; got c and b, b and c"),
    ):
        with pytest.raises(MLCAKError, match=message):
            compare(models, n_draws=60, pairs=pairs)
    with pytest.raises(MLCAKError, match="Either a baseline or pairs must be given; got both"):
        compare(models, "a", 60, pairs=[("c", "b")])


def trained_on(evaluated, thresholds=0):
    return {"trained_on": {"evaluated": evaluated, "thresholds": thresholds}}


def test_training_images_are_marked_in_table_figure_and_record_and_decide_nothing(tmp_path):
    models = [
        *seeds("plain", (0.5, 0.7), details=trained_on(0)),
        predictions("student", 3.0, "0", details=trained_on(0)),
        predictions("student", 3.1, "1", details=trained_on(23, thresholds=4)),
    ]
    comparison = compare(models, n_draws=60)
    paths = write_report(comparison, tmp_path)
    assert Comparison.from_json(paths[0]).row("student").trained_on[1] == {"evaluated": 23, "thresholds": 4}
    assert {pair.no_verdict for pair in comparison.differences} == {"student was trained on 23 of these images"}
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(rich_table(comparison))
    for text in (console.export_text(), paths[1].read_text()):
        assert "Warning: student was trained on 23 of these 90 images, so its numbers are too good." in text
        assert "student was trained on 4 of the images that its operating thresholds come from." in text
        assert "student (2 runs, trained on these images)" in text
        assert "plain (2 runs)" in text
        assert "Not known" not in text
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, path: drawn.append(figure))
        draw_comparison(comparison, tmp_path / "comparison.png")
    assert "student was trained on 23 of these 90" in drawn[0].get_suptitle().replace("\n", " ")
    labels = [label.get_text().replace("\n", " ") for axes in drawn[0].axes for label in axes.get_yticklabels()]
    assert "student (2 runs, trained on these images)" in labels


def test_images_that_only_a_teacher_was_trained_on_are_marked_as_such():
    details = {"trained_on": {"evaluated": 5, "by_teachers": 5}}
    comparison = compare(
        [predictions("student", details=details), predictions("plain", details=trained_on(0))], n_draws=60
    )
    (warning,) = [line for line in warnings(comparison) if "trained" in line]
    assert warning.startswith("Warning: student, or a model that taught it, was trained on 5 of these 90 images")
    assert all("or a model that taught it, was trained on 5" in pair.no_verdict for pair in comparison.differences)


def test_a_model_without_a_record_of_its_training_images_is_named():
    comparison = compare([predictions("hub"), predictions("own", details=trained_on(0))], n_draws=60)
    assert "It is not recorded on which images these models, or their initial weights, were trained: hub." in footer(
        comparison
    )
    assert "Warning" not in markdown(comparison)


def test_there_is_no_verdict_without_paired_runs_or_with_few_patients():
    def reasons(*models):
        return {pair.no_verdict for pair in compare(models, n_draws=60).differences}

    assert reasons(predictions("a"), predictions("b", 3.0)) == {"a single training run"}
    assert reasons(*seeds("a", (0.5, 0.6)), predictions("b", 3.0, "0")) == {"a single training run"}
    unpaired = [predictions("b", 3.0, "1"), predictions("b", 3.1, "2")]
    assert reasons(*seeds("a", (0.5, 0.6)), *unpaired) == {"the rows do not have the same runs"}
    labels = np.arange(N) >= 2 * 9  # nine patients of two images each
    few = [replace(model, global_task=global_scores(model.global_task.scores, labels), local_task=None)
           for model in [*seeds("a", (0.5, 0.6)), *seeds("b", (3.0, 3.1))]]  # fmt: skip
    assert reasons(*few) == {"fewer than 10 patients in a class of Abnormal"}
    assert "no verdict (fewer than 10 patients" in statements(compare(few, n_draws=60))[0]


def test_the_interval_of_a_difference_counts_patients_and_runs():
    a, b = (0.5, 0.7, 0.9), (0.9, 1.0, 1.4)
    comparison = compare([*seeds("a", a), *seeds("b", b, noise=1)])
    pair = comparison.differences[0]
    images_only = [
        compare([predictions("a", x), predictions("b", y, noise=1)]).differences[0] for x, y in zip(a, b, strict=True)
    ]
    low, high = np.mean([(one.estimate.interval.low, one.estimate.interval.high) for one in images_only], axis=0)
    over_runs = 4.303 * np.std(pair.per_run, ddof=1) / 3**0.5  # t of 2 degrees of freedom
    half = (pair.estimate.interval.high - pair.estimate.interval.low) / 2
    assert half == pytest.approx(math.hypot((high - low) / 2, over_runs), rel=0.05)
    assert pair.least_difference > half  # two comparisons


def test_a_model_compared_with_its_copy_differs_by_exactly_nothing():
    for difference in compare([*seeds("a", (0.5, 0.7)), *seeds("b", (0.5, 0.7))]).differences:
        assert (difference.estimate.value, difference.estimate.interval.low, difference.estimate.interval.high) == (
            0.0, 0.0, 0.0,
        )  # fmt: skip
        assert (difference.p_value, difference.beyond_noise) == (1.0, False)


def test_runs_of_a_row_give_mean_and_deviation():
    runs = [predictions("a", skill, run) for skill, run in ((0.5, "1"), (0.7, "2"), (0.9, "3"))]
    others = [predictions("b", skill, run) for skill, run in ((0.6, "1"), (0.8, "2"), (1.0, "3"))]
    values = np.array([compare([run]).rows[0].metrics["auroc_global"].value for run in runs])
    other_values = np.array([compare([run]).rows[0].metrics["auroc_global"].value for run in others])
    comparison = compare([*runs, *others])
    estimate = comparison.rows[0].metrics["auroc_global"]
    assert [row.name for row in comparison.rows] == ["a", "b"]
    assert (estimate.value, estimate.deviation, estimate.runs) == pytest.approx((values.mean(), values.std(ddof=1), 3))
    difference = comparison.differences[0]
    assert difference.per_run == pytest.approx(other_values - values)
    assert difference.estimate.deviation == pytest.approx((other_values - values).std(ddof=1))
    assert "before believing" not in " ".join(statements(comparison))


def test_runs_that_disagree_about_the_sign_are_noise():
    difference = compare([*seeds("a", (0.5, 0.5)), *seeds("b", (0.45, 3.0))]).differences[0]
    assert difference.per_run[0] < 0 < difference.per_run[1]
    assert not difference.beyond_noise


def test_a_row_without_a_local_head_shows_a_dash(tmp_path):
    comparison = compare([predictions("both"), predictions("global only", local=False)])
    assert "auroc_local_macro" not in comparison.rows[1].metrics
    console = Console(width=100, record=True, file=(tmp_path / "out").open("w"))
    console.print(rich_table(comparison))
    text = console.export_text()
    row = next(line for line in text.splitlines() if "global only" in line)
    assert " - " in row
    assert "Research use only" in text
    assert next(line for line in markdown(comparison).splitlines() if "global only" in line).count(" - |") == 1


def test_the_terminal_table_keeps_its_numbers_at_80_columns(tmp_path):
    rows = [predictions(f"student with a long name {i}", 0.5 + i / 10, str(i)) for i in range(2)]
    found = Localisation(*(np.full(N, value) for value in (0.5, 0.25, 1.0, 0.3)))
    comparison = compare([replace(row, localisation={"": found}, name=rows[0].name) for row in rows])
    console = Console(width=80, record=True, file=(tmp_path / "out").open("w"))
    console.print(rich_table(comparison))
    text = console.export_text()
    assert "…" not in text
    estimate = comparison.rows[0].metrics["auroc_global"]
    assert f"{estimate.interval.low:.3f}–{estimate.interval.high:.3f}" in text
    assert "2.00" in text
    mean, highest = (comparison.rows[0].metrics[f"calibration_floor{part}_global"].value for part in ("", "_95"))
    assert f"{highest:.3f}" in text
    assert f"{mean:.3f}–{highest:.3f}" in markdown(comparison)


def test_the_record_is_strict_json_and_comes_back_whole(tmp_path):
    models = [*seeds("a", (0.5, 0.7), thresholds=np.array([0.4])), *seeds("b", (0.6, 0.9))]
    comparison = compare(models, context={"split": "test"})
    comparison.to_json(tmp_path / "comparison.json")
    saved = json.loads((tmp_path / "comparison.json").read_text(), parse_constant=pytest.fail)
    assert saved["context"] == {"split": "test"}
    interval = saved["rows"][1]["metrics"]["auroc_global"]["interval"]
    assert interval["low"] < interval["high"]
    assert saved["single_class_labels"] == ["Pneumothorax"]
    assert saved["class_counts"]["Cardiomegaly"]["present"] > 0
    assert saved["differences"][0]["model"] == "b"
    assert "Research use only" in saved["notice"]
    read = Comparison.from_json(tmp_path / "comparison.json")
    assert read == comparison
    assert statements(read) == statements(comparison)
    assert markdown(read) == markdown(comparison)


def test_a_file_that_is_not_a_comparison_is_named(tmp_path):
    (tmp_path / "other.json").write_text('{"rows": 3}')
    with pytest.raises(MLCAKError, match=r"gone\.json is not a comparison of models"):
        Comparison.from_json(tmp_path / "gone.json")
    with pytest.raises(MLCAKError, match="not a comparison of models"):
        Comparison.from_json(tmp_path / "other.json")
    (tmp_path / "old.json").write_text('{"format": 1}')
    with pytest.raises(MLCAKError, match="must have format 4; got 1"):
        Comparison.from_json(tmp_path / "old.json")
    with pytest.raises(MLCAKError, match="no row 'b'; it has 'a'"):
        compare([predictions("a")], n_draws=60).row("b")


def test_figures_are_drawn_for_every_kind_of_comparison(tmp_path):
    many = [predictions(f"model {index}", 0.4 + 0.2 * index) for index in range(9)]
    for name, models in {"one": many[:1], "many": many, "global": [predictions("a", local=False)]}.items():
        path = tmp_path / f"{name}.png"
        draw_comparison(compare(models, n_draws=60), path)
        with Image.open(path) as picture:
            assert min(picture.size) > 400
            assert np.asarray(picture.convert("L")).std() > 5  # not an empty sheet


def test_no_model_has_both_classes(tmp_path):
    task = global_scores(np.linspace(0, 1, 50), np.zeros(50))
    comparison = compare([ModelPredictions("a", [str(i) for i in range(50)], task)])
    assert comparison.single_class_labels == ("global/Abnormal",)
    assert "auroc_global" not in comparison.rows[0].metrics
    assert all(path.stat().st_size for path in write_report(comparison, tmp_path))
    assert "Brier" in markdown(comparison)


def test_intervals_are_over_patients_where_they_are_known():
    # Ten copies of every image: no new evidence, so the interval over patients stays that of the single images.
    model = predictions("a", local=False)
    rows = np.repeat(np.arange(N), 10)
    copies = {"image_ids": [f"{row}" for row in range(10 * N)], "global_task": model.global_task.take(rows)}
    by_image = ModelPredictions("a", **copies)
    by_patient = ModelPredictions("a", **copies, groups=[f"patient-{row}" for row in rows])

    def width(model):
        comparison = compare([model])
        interval = comparison.rows[0].metrics["auroc_global"].interval
        return interval.high - interval.low, comparison.groups_known

    alone, _ = width(replace(model, groups=None))
    assert width(by_patient) == (pytest.approx(alone, rel=0.1), True)
    assert width(by_image) == (pytest.approx(alone / 10**0.5, rel=0.15), False)


def test_the_footer_lists_the_operating_thresholds_of_every_run_and_their_split():
    runs = [predictions("student", run=run, thresholds=np.array([value])) for run, value in (("0", 0.4), ("1", 0.55))]
    teacher = predictions("teacher", run="0", thresholds=np.array([math.inf]))
    comparison = compare([teacher, *runs], n_draws=100, context={"threshold_split": "tuning"})
    line = "Operating thresholds, for 90 % specificity on the tuning split: student Abnormal 0.400 / 0.550."
    assert line in footer(comparison)
    assert line in markdown(comparison)
    assert [row.thresholds for row in comparison.rows] == [(), ({"Abnormal": 0.4}, {"Abnormal": 0.55})]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(rich_table(comparison))
    assert "0.400 / 0.550" in " ".join(console.export_text().split())
    assert "Operating" not in "".join(footer(compare([predictions("plain")], n_draws=100)))
