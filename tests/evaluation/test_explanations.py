"""Explanation maps against boxes and baselines: measured on a tiny dataset, and reported from numbers made by hand."""

import copy
import json
import shutil
from dataclasses import replace

import datasets
import numpy as np
import pytest
import scipy.stats
import torch
from tiny_models import FINDINGS, tiny_model

from mlcak_hf import MLCAKImageProcessor
from mlcak_hf.errors import DatasetError, MLCAKError, RecipeError
from mlcak_hf.evaluation.arguments import models_to_evaluate
from mlcak_hf.evaluation.explanations import measure_maps as measure
from mlcak_hf.evaluation.explanations.map_report import Explanations
from mlcak_hf.evaluation.explanations.map_statistics import report_maps, zero_mean_p_value
from mlcak_hf.evaluation.explanations.map_tables import map_tables, write_explanations
from mlcak_hf.evaluation.explanations.measure_maps import ExplanationArguments, measure_maps
from mlcak_hf.evaluation.explanations.measurement import MAP_METRICS, MapMeasurement, pool_folds
from mlcak_hf.evaluation.localisation import box_coverages, localise
from mlcak_hf.evaluation.significance import holm
from mlcak_hf.explanation.choices import METHODS
from mlcak_hf.explanation.explain import explain

EDGES = ("x_min", "y_min", "x_max", "y_max")
IMAGES = 12


def box(finding, *edges):
    return {"finding": finding, **dict(zip(EDGES, map(float, edges), strict=True))}


def rows(split, boxes=True):
    rng = np.random.default_rng(len(split))
    for index in range(IMAGES):
        there = index % 3
        marked = [box("Edema", 4, 8, 20, 24), box("Edema", 0, 0, 4, 4)] if there else []
        marked += [box("Fracture", 1, 1, 9, 9)] if there == 2 else []
        yield {
            "image_id": f"{split}-{index}",
            "image": rng.integers(0, 256, (32, 32), dtype=np.uint8),
            "label": int(there > 0),
            "findings": {"Edema": int(there > 0), "Nodule/Mass": 0, "Pneumothorax": 0},
            "reread": {"Edema": 1, "Nodule/Mass": 0, "Pneumothorax": 0},
            "boxes": marked if boxes else [],
            "group": f"{split}-{index // 2}",
        }


def write(folder, splits):
    """A dataset of the rows of each split."""
    edges = dict.fromkeys(EDGES, datasets.Value("float32"))
    types = {
        "image_id": datasets.Value("string"),
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["Normal", "Abnormal"]),
        "findings": {name: datasets.Value("int8") for name in FINDINGS},
        "reread": {name: datasets.Value("int8") for name in FINDINGS},
        "boxes": datasets.List({"finding": datasets.Value("string")} | edges),
        "group": datasets.Value("string"),
        "patient": datasets.Value("int64"),
    }
    for split, found in splits.items():
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        features = datasets.Features({name: types[name] for name in found[0]})
        datasets.Dataset.from_list(found, features=features).to_parquet(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset with boxes of a finding that the models have and of one that they lack; models of either embedding."""
    folder = tmp_path_factory.mktemp("explanations")
    for name, boxes in (("dataset", True), ("without-boxes", False)):
        write(folder / name, {split: list(rows(split, boxes)) for split in ("train", "validation", "test")})
    fields = {"linear": {}, "conv": {"patch_embedding": "conv", "trunk_widths": [8, 8, 8]}}
    fields |= {"other": {"local_labels": ["Pneumothorax"]}}
    for seed, (name, own) in enumerate(fields.items()):
        tiny_model(seed=seed, **own).save_pretrained(folder / name)
        MLCAKImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder / name)
    return folder


def arguments(folder, output, *names, dataset="dataset", **changes):
    models = [f"{name}={folder / name}" for name in names]
    return ExplanationArguments(dataset=str(folder / dataset), models=models, output=str(output), **changes)


def measured_by(args):
    return [measure_maps(model, args) for model in models_to_evaluate(args.models)]


@pytest.fixture(scope="module")
def measured(folder):
    return measured_by(arguments(folder, folder / "out", "linear", "conv", perturbed=3))


def test_every_method_and_baseline_is_scored_for_each_pair_of_image_and_finding(measured):
    for each in measured:
        assert len(each) == 8
        assert set(each.findings) == {"Edema"}
        assert each.unknown_findings == ("Fracture",)
        ends = ("", "/mean map", "/random weights")
        assert set(each.scores) == {"random", *(f"{method}{end}" for method in METHODS for end in ends)}
        scores = np.stack(list(each.scores.values()))
        assert np.isfinite(scores[:, :3]).all()
        assert ((scores[:, :3] >= 0) & (scores[:, :3] <= 1)).all()
        assert (np.isfinite(each.scores["rollout"]).sum(axis=1) == [8, 8, 8, 3, 3]).all()
        assert each.area == pytest.approx((16 * 16 + 4 * 4) / 32**2)
        assert each.trained_on is None


def test_the_scores_are_those_of_the_models_maps_against_the_boxes_of_the_finding(folder, measured):
    args = arguments(folder, folder / "out", "linear")
    (model,) = models_to_evaluate(args.models)
    data = measure.EvaluationData.open(args, [model])
    network = measure.load_model(model.folder)
    pixels = model.load_processor()(data.split("test")[1]["image"], return_tensors="pt")["pixel_values"]
    boxes = [[2, 4, 10, 12], [0, 0, 2, 2]]  # in the model's 16 pixels
    coverages = box_coverages([boxes], (16, 16), (4, 4), [[0, 0, 16, 16]])
    for method, maps in explain(network, pixels, [0]).items():
        expected = localise(maps, *coverages)
        assert measured[0].scores[method][:2, 0] == pytest.approx([expected.hit[0], expected.share[0]], rel=1e-4)


def test_the_mean_map_is_that_of_training_images_with_the_finding(folder, measured):
    args = arguments(folder, folder / "out", "linear")
    (model,) = models_to_evaluate(args.models)
    train = measure.EvaluationData.open(args, [model]).split("train")
    images = [row["image"] for row in train if row["findings"]["Edema"]]
    pixels = torch.cat([model.load_processor()(image, return_tensors="pt")["pixel_values"] for image in images])
    maps = explain(measure.load_model(model.folder), pixels, [0] * len(images))["gradient"]
    mean = (maps / maps.sum(axis=(1, 2), keepdims=True)).mean(axis=0, keepdims=True)
    coverages = box_coverages([[[2, 4, 10, 12], [0, 0, 2, 2]]], (16, 16), (4, 4), [[0, 0, 16, 16]])
    expected = localise(mean, *coverages).share[0]
    assert measured[0].scores["gradient/mean map"][1] == pytest.approx(expected, rel=1e-4)


def test_random_maps_score_what_chance_gives(measured):
    assert measured[0].scores["random"][1].mean() == pytest.approx(measured[0].area.mean(), abs=0.05)


def test_a_finished_model_is_not_measured_again_until_something_changes(folder, measured, monkeypatch):
    monkeypatch.setattr(measure, "_Network", lambda *_: pytest.fail("measured again"))
    args = arguments(folder, folder / "out", "linear", perturbed=3)
    (again,) = measured_by(args)
    assert again.images == measured[0].images
    assert all((again.scores[name] == values)[:3].all() for name, values in measured[0].scores.items())
    columns = {"group_column": "none", "image_id_column": "none", "label_column": "none", "findings_column": "reread"}
    for option, value in {"perturbed": 2, "seed": 1, **columns}.items():
        with pytest.raises(pytest.fail.Exception, match="measured again"):
            measured_by(replace(args, **{option: value}))


def test_without_boxes_or_without_their_findings_there_is_one_clear_error(folder, tmp_path):
    with pytest.raises(DatasetError, match="'test' must have boxes of the findings of model linear; it has none"):
        measured_by(arguments(folder, tmp_path, "linear", dataset="without-boxes"))
    with pytest.raises(DatasetError, match="of model other; it has boxes of Edema, Fracture"):
        measured_by(arguments(folder, tmp_path, "other"))


def test_without_validation_boxes_or_training_images_those_columns_are_left_out(folder, tmp_path):
    only = folder / "dataset" / "data" / "test-00000-of-00001.parquet"
    args = arguments(folder, tmp_path, "linear", threshold_split="none", mean_images=0, perturbed=0)
    text = map_tables(report_maps(measured_by(replace(args, dataset=str(only), split="train")), 100))
    assert "No overlap, because no validation image has boxes" in text
    assert "No mean map" in text
    assert "IoU |" not in text
    assert "Deletion" not in text.split("\n\n")[4]


def measured_on(folder, splits, source, **changes):
    """The maps of one model on a dataset of its own."""
    write(folder / "own", splits)
    model = f"linear={source / 'linear'}"
    args = {"perturbed": 0, "mean_images": 2} | changes
    own, output = str(folder / "own"), str(folder / "out")
    return measured_by(ExplanationArguments(dataset=own, models=[model], output=output, **args))[0]


def changed(splits, split, place, **values):
    """The rows with other values in one place."""
    found = copy.deepcopy(splits)
    found[split][place] |= values
    return found


def test_earlier_measurements_are_read_only_for_the_same_boxes_images_and_patients(
    folder, tmp_path, monkeypatch, capsys
):
    """Without ids, other images have the same names."""
    splits = {split: list(rows(split)) for split in ("train", "validation", "test")}
    for found in splits.values():
        for row in found:
            del row["image_id"]
    measured_on(tmp_path / "first", splits, folder)
    assert "measured earlier" not in capsys.readouterr().out
    monkeypatch.setattr(measure, "_Network", lambda *_: pytest.fail("measured again"))
    others = {
        "same": splits,
        "image": changed(splits, "test", 0, image=255 - splits["test"][0]["image"]),
        "boxes": changed(splits, "test", 1, boxes=[box("Edema", 4, 8, 20, 25)]),
        "patient": changed(splits, "test", 1, group="another"),
        "thresholds": changed(splits, "validation", 1, boxes=[]),
        "training image": changed(splits, "train", 1, image=255 - splits["train"][1]["image"]),
        "training finding": changed(splits, "train", 0, findings=splits["train"][1]["findings"]),
    }
    for name, other in others.items():
        shutil.copytree(tmp_path / "first" / "out", tmp_path / name / "out")
        if name == "same":
            measured_on(tmp_path / name, other, folder)
            assert "linear.npz is read, measured earlier on the same images" in capsys.readouterr().out
            continue
        with pytest.raises(pytest.fail.Exception, match="measured again"):
            measured_on(tmp_path / name, other, folder)
    # Training images and thresholds that are not used change nothing.
    shutil.rmtree(tmp_path / "first")
    monkeypatch.undo()
    unused = {"mean_images": 0, "threshold_split": "none"}
    measured_on(tmp_path / "first", splits, folder, **unused)
    shutil.copytree(tmp_path / "first" / "out", tmp_path / "unused" / "out")
    measured_on(tmp_path / "unused", changed(others["thresholds"], "train", 1, label=0), folder, **unused)
    assert "measured earlier" in capsys.readouterr().out


def test_wrong_options_are_refused_in_one_sentence(folder, tmp_path):
    for option in ("mean_images", "perturbed"):
        with pytest.raises(RecipeError, match=f"--{option} must be at least 0, which leaves it out; got -1"):
            arguments(folder, tmp_path, "linear", **{option: -1})
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="file must be a folder to write"):
        measured_by(arguments(folder, tmp_path / "file", "linear"))


def test_an_overlap_is_never_chosen_on_the_measured_images(folder, tmp_path):
    assert not measured_by(arguments(folder, tmp_path, "linear", split="validation", perturbed=0))[0].shares


def test_a_missing_image_file_is_named(folder, tmp_path):
    gone = [row | {"image": "gone.png"} for row in rows("test")]
    (tmp_path / "gone.json").write_text(json.dumps(gone))
    args = arguments(folder, tmp_path / "out", "linear", split="train", threshold_split="none")
    with pytest.raises(DatasetError, match=r"split 'train' cannot be read: .*gone\.png"):
        measured_by(replace(args, dataset=str(tmp_path / "gone.json")))


def test_a_finding_with_boxes_in_validation_alone_leaves_the_overlap_of_the_mean_map(folder, tmp_path):
    splits = {split: list(rows(split)) for split in ("train", "validation", "test")}
    splits["validation"][0]["boxes"] = [box("Nodule/Mass", 4, 4, 12, 12)]
    found = measured_on(tmp_path, splits, folder)
    assert np.isfinite(found.scores["attention/mean map"][list(MAP_METRICS).index("iou")]).all()


def test_patient_0_is_a_patient(folder, tmp_path):
    numbered = [row | {"patient": index // 2 if index < 10 else None} for index, row in enumerate(rows("test"))]
    marked = [index for index in range(IMAGES) if index % 3]
    found = measured_on(tmp_path, {"test": numbered}, folder, threshold_split="none", group_column="patient")
    assert found.groups == tuple(str(index // 2) if index < 10 else f"image test-{index}" for index in marked)


def test_a_map_on_the_padding_alone_counts_as_uniform(folder, tmp_path, monkeypatch):
    padded = np.zeros((1, 4, 4))
    padded[:, 0] = 1  # above a radiograph that is half as high as wide
    monkeypatch.setattr(
        measure, "explain", lambda _, pixels, labels: dict.fromkeys(METHODS, padded.repeat(len(labels), axis=0))
    )
    wide = [row | {"image": row["image"][:16], "boxes": [box("Edema", 4, 4, 20, 12)]} for row in rows("test")]
    found = measured_on(tmp_path, {"test": wide}, folder, threshold_split="none", perturbed=2)
    assert found.scores["grad-cam"][1] == pytest.approx(found.area)
    assert found.empty["grad-cam"] == 1


def test_folds_of_images_without_ids_are_pooled(folder, tmp_path):
    unnamed = [{name: value for name, value in row.items() if name not in ("image_id", "group")} for row in rows("x")]
    options = {"split": "fold", "folds": 2, "threshold_split": "none", "mean_images": 0}
    folds = [measured_on(tmp_path / str(fold), {"train": unnamed}, folder, fold=fold, **options) for fold in (0, 1)]
    pooled = pool_folds(folds)
    assert len(set(pooled.images)) == len(set(pooled.groups)) == len(pooled) == 8
    with pytest.raises(MLCAKError, match="share"):
        pool_folds([folds[0], folds[0]])


def test_models_with_similar_names_are_kept_apart(folder, tmp_path):
    names = ("a b", "a/b", "a-b", "a b")
    models = [f"{name}={folder / 'linear'}" for name in names]
    args = arguments(folder, tmp_path, threshold_split="none", mean_images=0, perturbed=0)
    measured_by(replace(args, models=models))
    files = sorted((tmp_path / "measurements").iterdir())
    assert [MapMeasurement.load(file).model for file in files] == ["a b", "a b", "a/b", "a-b"]


# The report, from numbers made by hand


def made(energy, pairs=40, model="made", **changes):
    """A measurement with the energy of some maps; all other maps are random ones around 0.2."""
    rng = np.random.default_rng(1)
    names = ["random", *(f"{method}{end}" for method in METHODS for end in ("", "/mean map", "/random weights"))]
    noise = rng.normal(0, 0.02, (len(names), pairs))
    scores = {name: np.tile(0.2 + each, (len(MAP_METRICS), 1)) for name, each in zip(names, noise, strict=True)}
    for name, value in energy.items():
        scores[name] = scores[name] + value - 0.2
    words = tuple(f"{model} {pair}" for pair in range(pairs))
    findings = tuple("Edema" if pair % 2 else "Nodule" for pair in range(pairs))
    measurement = MapMeasurement(
        model=model, key={"weights": "abc"}, images=words, groups=words, findings=findings,
        area=np.linspace(0, 0.3, pairs), scores=scores, correlation={name: np.full(pairs, 0.5) for name in METHODS},
        shares={}, empty=dict.fromkeys(METHODS, 0.0), unknown_findings=(), trained_on=None,
    )  # fmt: skip
    return replace(measurement, **changes)


def test_verdicts_follow_from_the_numbers():
    energy = {"attention": 0.25, "attention/mean map": 0.3, "gradient": 0.5, "gradient/mean map": 0.4}
    report = report_maps([made(energy)]).report("made")
    score = {method: report.score(method) for method in METHODS}
    assert score["attention"].verdict("random") == "beats"
    assert score["attention"].verdict("mean map") == "loses to"
    assert score["gradient"].verdict("mean map") == "beats"
    assert score["rollout"].verdict("mean map") == "cannot be told from"
    assert score["attention"].gains["mean map"].value == pytest.approx(-0.05, abs=0.02)
    worse, unsure = report.statements()[-2:]
    assert worse.startswith("The maps of attention find the boxes worse than their mean map")
    assert unsure.startswith("The maps of rollout and grad-cam are not shown to find the boxes better")


def test_a_model_that_beats_the_mean_map_everywhere_gets_no_such_sentence():
    report = report_maps([made(dict.fromkeys(METHODS, 0.4))]).report("made")
    assert not any("mean map over training images" in line for line in report.statements())
    assert all("beats the mean map of training images (" in line for line in report.statements())


def test_lower_deletion_is_better():
    score = report_maps([made({"attention": 0.1})]).report("made").score("attention", "deletion")
    assert score.gains["random"].value == pytest.approx(0.1, abs=0.02)


def test_too_few_patients_get_no_verdict_and_are_marked():
    explanations = report_maps([made({"attention": 0.4}, pairs=9)])
    assert explanations.report("made").score("attention").p_values == {}
    assert "4, 4 (too few)" in map_tables(explanations)


def test_equal_maps_are_called_different_in_at_most_a_twentieth_of_the_reports():
    """Gains of 4 methods over 3 baselines that are noise, of 40 patients with two pairs each, in 1,000 reports."""
    rng, groups = np.random.default_rng(0), [str(pair // 2) for pair in range(80)]
    claims = 0
    for _ in range(1000):
        of_patients = rng.normal(0, 1, (12, 40)).repeat(2, axis=1)
        gains = of_patients + rng.normal(0, 1, (12, 80))
        claims += holm([zero_mean_p_value(gain, groups) for gain in gains]).min() <= 0.05
    assert 0.03 <= claims / 1000 <= 0.065


def test_with_one_pair_of_each_patient_the_p_value_is_that_of_a_t_test():
    values = np.random.default_rng(0).normal(0.3, 1, 30)
    expected = scipy.stats.ttest_1samp(values, 0).pvalue
    assert zero_mean_p_value(values, list(map(str, range(30)))) == pytest.approx(expected)


def test_findings_and_sizes_are_reported_apart():
    report = report_maps([made({})]).report("made")
    groups = {(score.kind, score.group): score.pairs for score in report.scores}
    assert groups[("finding", "Edema")] == groups[("finding", "Nodule")] == 20
    assert groups[("size", "under 1 %")] == 2  # 0 and 0.0077
    assert sum(pairs for (kind, _), pairs in groups.items() if kind == "size") == 40


def test_the_record_is_read_as_it_was_written(tmp_path, measured):
    explanations = report_maps(measured, 100, context={"dataset": "chests", "split": "test"})
    json_file, markdown = write_explanations(explanations, tmp_path)
    assert Explanations.from_json(json_file) == explanations
    assert "# Explanations: chests · test" in markdown.read_text(encoding="utf-8")
    with pytest.raises(MLCAKError, match="must be those of 'nobody'; got those of 'linear', 'conv'"):
        explanations.report("nobody")
    lists = json.loads(json_file.read_text(encoding="utf-8"))
    lists["reports"][0]["correlation"] = []
    for broken in ("{}", "[", json.dumps({"format": 99}), json.dumps(lists)):
        json_file.write_text(broken)
        with pytest.raises(MLCAKError, match=r"must be an explanations\.json"):
            Explanations.from_json(json_file)


def test_models_with_different_findings_are_reported_side_by_side():
    other = made({}, model="other", findings=("Effusion",) * 40)
    text = map_tables(report_maps([made({}), other], 100))
    assert text.index("| Edema |") < text.index("## other") < text.index("| Effusion |")


def test_folds_are_pooled_and_images_in_two_folds_refused(tmp_path):
    first = made({}, shares={"random": [0.05]}, trained_on=0)
    second = replace(first, images=tuple(f"second {image}" for image in first.images), trained_on=2)
    pooled = pool_folds([first, second])
    assert len(pooled) == 80
    assert pooled.shares["random"] == [0.05, 0.05]
    assert pooled.trained_on == 2
    report = report_maps([first, second]).report("made")
    assert (report.pairs, report.images, report.patients, report.weights) == (80, 80, 40, ("abc", "abc"))
    assert report.statements()[-1] == "Warning: 2 of these 80 images were used to train the model or its teachers."
    with pytest.raises(MLCAKError, match="share 40 images"):
        pool_folds([first, first])
    first.save(tmp_path / "measured.npz")
    assert MapMeasurement.load(tmp_path / "measured.npz").shares == first.shares
    (tmp_path / "measured.npz").write_text("no")
    with pytest.raises(MLCAKError, match="Delete it to measure again"):
        MapMeasurement.load(tmp_path / "measured.npz")
