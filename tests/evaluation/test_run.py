"""The evaluation of models on a tiny prepared dataset: one and two processes, low resolution, boxes, bad input."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from tiny_models import FINDINGS, tiny_model
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTConfig, ViTForImageClassification

from mlcak_hf import MLCAKImageProcessor
from mlcak_hf.data.columns import DatasetColumns
from mlcak_hf.data.decoded_images import image_digest
from mlcak_hf.deployment.model_card import card_for_folder
from mlcak_hf.errors import DatasetError, DeploymentError, MLCAKError, RecipeError
from mlcak_hf.evaluation import run
from mlcak_hf.evaluation.arguments import EvaluatedModel, EvaluationArguments, EvaluationData, models_to_evaluate
from mlcak_hf.evaluation.calibration import operating_thresholds
from mlcak_hf.evaluation.comparison import Comparison
from mlcak_hf.evaluation.localisation import box_coverages, localise
from mlcak_hf.evaluation.predictions import ModelPredictions
from mlcak_hf.evaluation.report.tables import write_report
from mlcak_hf.evaluation.report.wording import footer
from mlcak_hf.evaluation.scores import global_scores
from mlcak_hf.image_processing_mlcak import map_boxes
from mlcak_hf.training.training_images import TrainingImages

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "evaluation" / "evaluate_models.py"
# What every training.json holds; its values do not matter here.
RECORD = {
    "model": {"distilled": False, "initial_weights": "random", "model": "tiny", "backbone_on_hub": False}
    | {"backbone": None, "teacher": None, "teacher_cache": None, "local_loss_weight": 1.0},
    "views": None,
    "arguments": dict.fromkeys(
        ("gradient_accumulation_steps", "per_device_train_batch_size", "learning_rate", "weight_decay", "seed"), 1
    )
    | {"optim": "adamw_torch", "lr_scheduler_type": "cosine"},
    "train": {"rows": 6, "global": {"Normal": 3, "Abnormal": 3}},
    "validation": {"rows": 12, "global": {"Normal": 6, "Abnormal": 6}},
    "epochs": 1.0,
    "steps": 2,
}
SIZES = {"train": 6, "validation": 12, "test": 23}  # 23: uneven over batches and processes


def rows(split, count):
    rng = np.random.default_rng(len(split))
    for index in range(count):
        abnormal = index % 2
        image = rng.integers(0, 256, (32, 32), dtype=np.uint8)
        box = {"finding": "Edema", "reader": "R1", "x_min": 4.0, "y_min": 8.0, "x_max": 30.0, "y_max": 44.0}
        yield {
            "image_id": f"{split}-{index}",
            "image": image,
            "label": abnormal,
            "findings": {"Edema": abnormal * int(rng.integers(0, 2)), "Nodule/Mass": -1, "Pneumothorax": 0},
            "boxes": [box] if abnormal else [],
            "original_height": 64,
            "original_width": 40,
            "group": f"{split}-{index // 2}",
        }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset and three models: teacher with 16 px input, student with 8 px, one without a local head."""
    folder = tmp_path_factory.mktemp("evaluation")
    number = datasets.Value("float32")
    box = dict.fromkeys(("x_min", "y_min", "x_max", "y_max"), number)
    box |= {"finding": datasets.Value("string"), "reader": datasets.Value("string")}
    features = datasets.Features(
        {
            "image_id": datasets.Value("string"),
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["Normal", "Abnormal"]),
            "findings": {name: datasets.Value("int8") for name in FINDINGS},
            "boxes": datasets.List(box),
            "original_height": datasets.Value("int32"),
            "original_width": datasets.Value("int32"),
            "group": datasets.Value("string"),
        }
    )
    for split, count in SIZES.items():
        path = folder / "dataset" / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_list(list(rows(split, count)), features=features).to_parquet(path)
    models = {"teacher": (16, FINDINGS), "student": (8, FINDINGS), "global": (8, [])}
    for seed, (name, (size, findings)) in enumerate(models.items()):
        model = tiny_model(seed=seed, local_labels=list(findings), backbone={"image_size": size})
        model.save_pretrained(folder / name)
        MLCAKImageProcessor(size={"height": size, "width": size}).save_pretrained(folder / name)
    return folder


def arguments(folder, output, *names, **changes):
    return EvaluationArguments(
        dataset=str(folder / "dataset"), models=[f"{name}={folder / name}" for name in names], output=str(output),
        **{"bootstrap_draws": 100, "batch_size": 4} | changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def evaluated(folder):
    output = folder / "comparison"
    args = arguments(folder, output, "teacher", "student", "global", lowres=["8"], baseline="student")
    write_report(run.run_evaluation(args), output)
    return output


def test_it_writes_table_figure_and_predictions(evaluated):
    saved = json.loads((evaluated / "comparison.json").read_text())
    assert [row["name"] for row in saved["rows"]] == ["teacher", "student", "global", "teacher fed 8 px"]
    assert (saved["n_images"], saved["n_groups"], saved["groups_known"]) == (23, 12, True)
    assert saved["single_class_labels"] == ["Pneumothorax"]
    assert saved["unannotated_labels"] == ["Nodule/Mass"]
    assert "auroc_local_macro" not in saved["rows"][2]["metrics"]
    assert "attention_ratio" in saved["rows"][2]["metrics"]
    assert {difference["baseline"] for difference in saved["differences"]} == {"student"}
    assert "Research use only" in (evaluated / "comparison.md").read_text()
    assert (evaluated / "comparison.png").stat().st_size > 10_000
    assert len(list((evaluated / "predictions").iterdir())) == 4


def reference(folder, name, split, lowres=None):
    """One image at a time, through the saved processor and model."""
    processor = AutoImageProcessor.from_pretrained(folder / name)
    if lowres is not None:
        processor.lowres = lowres
    model = AutoModelForImageClassification.from_pretrained(folder / name).eval()
    with torch.no_grad():
        outputs = [
            model(processor(row["image"], return_tensors="pt")["pixel_values"], output_attentions=True)
            for row in rows(split, SIZES[split])
        ]
    return model, outputs


@pytest.mark.parametrize(
    ("file", "name", "lowres"),
    [("teacher", "teacher", None), ("teacher fed 8 px", "teacher", 8), ("global", "global", None)],
)
def test_scores_are_those_of_the_saved_model_image_by_image(folder, evaluated, file, name, lowres):
    loaded = ModelPredictions.load(evaluated / "predictions" / f"{file}.npz")
    _, outputs = reference(folder, name, "test", lowres)
    scores = [output.logits.softmax(-1)[0, 1].item() for output in outputs]
    assert loaded.global_task.scores[:, 0] == pytest.approx(scores, abs=1e-5)
    assert loaded.image_ids == tuple(f"test-{index}" for index in range(23))
    assert loaded.global_task.labels[:, 0].tolist() == [index % 2 for index in range(23)]
    if name == "teacher":
        local = np.stack([output.local_logits.sigmoid()[0].numpy() for output in outputs])
        assert loaded.local_task.scores == pytest.approx(local, abs=1e-5)
        assert loaded.details["lowres_px"] == lowres


def test_low_resolution_changes_what_the_teacher_sees(evaluated):
    full, fed = (ModelPredictions.load(evaluated / "predictions" / f"{n}.npz") for n in ("teacher", "teacher fed 8 px"))
    assert np.abs(full.global_task.scores - fed.global_task.scores).max() > 1e-3


def test_thresholds_come_from_validation(folder, evaluated):
    loaded = ModelPredictions.load(evaluated / "predictions" / "student.npz")
    _, outputs = reference(folder, "student", "validation")
    scores = np.array([output.logits.softmax(-1)[0, 1].item() for output in outputs])
    task = global_scores(scores, [index % 2 for index in range(12)])
    assert loaded.thresholds == pytest.approx(operating_thresholds(task), abs=1e-5)


def test_attention_is_measured_against_boxes_in_model_coordinates(folder, evaluated):
    loaded = ModelPredictions.load(evaluated / "predictions" / "teacher.npz")
    _, outputs = reference(folder, "teacher", "test")
    grids = np.stack([output.mlcak[0, 0, 1:].reshape(4, 4).numpy() for output in outputs]).astype(float)
    box = map_boxes([[4, 8, 30, 44]], (64, 40), (16, 16), "pad")
    edges = map_boxes([[0, 0, 40, 64]], (64, 40), (16, 16), "pad")[0]
    boxes = [box if index % 2 else [] for index in range(23)]
    expected = localise(grids, *box_coverages(boxes, (16, 16), grids.shape[1:], [edges] * 23))
    assert list(loaded.localisation) == ["", "Edema"]
    found = loaded.localisation["Edema"]
    # 26 of 40 by 36 of 64 pixels of the radiograph.
    assert np.nanmax(np.abs(found.area[1::2] - 26 / 40 * 36 / 64)) < 1e-9
    assert found.share[1::2] == pytest.approx(expected.share[1::2], abs=1e-5)
    assert np.isnan(found.share[::2]).all()


def test_a_card_takes_the_numbers_of_its_own_row_only(folder, evaluated):
    saved = evaluated / "comparison.json"
    assert "AUROC global" in card_for_folder(folder / "teacher", saved).content
    for name, row, why in (
        ("student", "teacher", "16 px images"),
        ("student", "global", "different weights"),
        ("teacher", "teacher fed 8 px", "reduced to 8 px"),
    ):
        with pytest.raises(DeploymentError, match=why):
            card_for_folder(folder / name, saved, row)
    comparison = Comparison.from_json(saved)
    threshold = comparison.row("teacher").thresholds[0]["Abnormal"]
    assert f"on the validation split: teacher Abnormal {threshold:.3f}" in "".join(footer(comparison))


def test_runs_of_one_name_are_one_row(folder, tmp_path):
    models = [f"student={folder / 'student'}", f"student={folder / 'teacher'}"]
    assert [model.run for model in models_to_evaluate(models)] == ["1", "2"]
    args = arguments(folder, tmp_path, threshold_split="none")
    args.models = models
    (row,) = run.run_evaluation(args).rows
    assert (row.name, row.runs) == ("student", ("1", "2"))
    assert row.metrics["auroc_global"].deviation > 0
    assert "sensitivity_at_threshold_global" not in row.metrics


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"models": ["teacher"]}, RecipeError, "--models must have the form name=folder; got 'teacher'"),
        ({"models": ["teacher=/nowhere"]}, MLCAKError, "--models teacher=/nowhere: there is no such folder"),
        ({"split": "holdout"}, DatasetError, "has no split 'holdout'; it has train, validation, test"),
        ({"lowres": ["tiny"]}, RecipeError, "--lowres must be a number of pixels, or name=pixels; got 'tiny'"),
        ({"lowres": ["nobody=8"]}, RecipeError, "'nobody' is not the name of a model"),
        ({"label_column": "diagnosis"}, DatasetError, "no column 'diagnosis'"),
        ({"baseline": "nobody"}, MLCAKError, "baseline must be one of the rows 'student'; got 'nobody'"),
        ({"pairs": ["student"]}, RecipeError, "--pairs must have the form name=name; got 'student'"),
        (
            {"pairs": ["student=plain"]},
            MLCAKError,
            "A pair must be two of the rows 'student'; got 'student' and 'plain'",
        ),
        ({"bootstrap_draws": 10}, RecipeError, "--bootstrap_draws must be at least 40"),
        ({"threshold_split": "vali"}, DatasetError, "has no split 'vali'"),
        ({"output": "/dev/null/here"}, RecipeError, "--output /dev/null/here cannot be written"),
        (
            {"models": ["teacher=runs/teachr"]},
            RecipeError,
            "model teacher 'runs/teachr' cannot be loaded: it is neither",
        ),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else None,
)
def test_bad_input_is_named_before_any_model_runs(folder, tmp_path, monkeypatch, changes, error, message):
    monkeypatch.setattr(run, "evaluate_model", lambda *args: pytest.fail("a model runs before the mistake is found"))
    args = arguments(folder, tmp_path, "student", threshold_split="none")
    for name, value in changes.items():
        setattr(args, name, value)
    with pytest.raises(error, match=message):
        run.run_evaluation(args)


def test_models_that_cannot_be_evaluated_are_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "evaluate_model", lambda *args: pytest.fail("a model runs before the mistake is found"))

    def refused(error, message, dataset, **models):
        args = arguments(folder, tmp_path / "out", threshold_split="none")
        args.dataset, args.models = str(dataset), [f"{name}={path}" for name, path in models.items()]
        with pytest.raises(error, match=message):
            run.run_evaluation(args)

    dataset = folder / "dataset"
    ViTForImageClassification(
        ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(tmp_path / "vit")
    refused(
        RecipeError,
        "vit' cannot be loaded.*model_type must be 'mlcak'; got 'vit'",
        dataset,
        t=folder / "teacher",
        s=tmp_path / "vit",
    )
    shutil.copytree(folder / "student", tmp_path / "bare")
    (tmp_path / "bare" / "preprocessor_config.json").unlink()
    refused(RecipeError, "bare' cannot be loaded.*preprocessor", dataset, t=folder / "teacher", s=tmp_path / "bare")
    shutil.copytree(dataset, tmp_path / "squashed")
    choices = {"format_version": 3, "choices": {"fit": "squash", "voi": "dicom"}}
    choices |= {"sources": {}, "splits": {}, "skipped": [], "suspect_images": {}, "fingerprint": ""}
    choices |= {"software": {}, "table_notes": []}
    (tmp_path / "squashed" / "preparation.json").write_text(json.dumps(choices))
    refused(DatasetError, "model s .*'pad'.*prepared with 'squash'", tmp_path / "squashed", s=folder / "student")


def with_records(folder, name, path, dataset, images, **options):
    """A model with the records of a training on some images of a dataset."""
    model = shutil.copytree(folder / name, path)
    content = {"data": {"dataset": str(dataset), "label_column": "label", "preparation": {}} | options}
    (model / "training.json").write_text(json.dumps(RECORD | content))
    TrainingImages.of_run(map(image_digest, images)).save(model)
    return model


def images_of(split):
    return [row["image"] for row in rows(split, SIZES[split])]


def test_the_split_is_that_of_the_models_training_and_another_one_is_refused(folder, tmp_path, monkeypatch):
    class ReachedError(Exception):
        """The checks before any model runs were passed."""

    used = []

    def evaluate(model, data, accelerator):
        used.append((data.args.validation_fraction, data.args.split_seed, len(data.split("validation"))))
        raise ReachedError

    monkeypatch.setattr(run, "evaluate_model", evaluate)
    renamed = shutil.copytree(folder / "dataset", tmp_path / "renamed")
    next((renamed / "data").glob("validation*")).unlink()
    student = with_records(folder, "student", tmp_path / "student", "dataset", images_of("train"),
                           validation_fraction=0.34, split_seed=3)  # fmt: skip
    args = arguments(folder, tmp_path / "out")
    args.dataset, args.models = str(renamed), [f"student={student}"]
    with pytest.raises(ReachedError):
        run.run_evaluation(args)
    assert used == [(0.34, 3, 2)]
    args.split_seed = 4
    with pytest.raises(DatasetError, match=r"model student was .* with --split_seed 3; got --split_seed 4\. Add --spl"):
        run.run_evaluation(args)
    args.split_seed, args.label_column = None, "group"
    with pytest.raises(DatasetError, match="--label_column label; got --label_column group"):
        run.run_evaluation(args)
    args.label_column = None
    teacher = with_records(folder, "teacher", tmp_path / "teacher", "dataset", images_of("train"),
                           validation_fraction=0.34, split_seed=5)  # fmt: skip
    args.models.append(f"teacher={teacher}")
    with pytest.raises(DatasetError, match=r"model teacher was .* with --split_seed 5; got --split_seed 3"):
        run.run_evaluation(args)
    # No rows are split off: the dataset has a validation split, or no thresholds are wanted.
    args.dataset = str(folder / "dataset")
    with pytest.raises(ReachedError):
        run.run_evaluation(args)
    args.dataset, args.threshold_split = str(renamed), "none"
    with pytest.raises(ReachedError):
        run.run_evaluation(args)


def test_another_dataset_may_be_split_otherwise_and_have_other_columns(folder, tmp_path):
    other = shutil.copytree(folder / "dataset", tmp_path / "other")
    next((other / "data").glob("validation*")).unlink()
    elsewhere = [255 - image for image in images_of("train")]
    student = with_records(folder, "student", tmp_path / "student", "dataset", elsewhere, split_seed=3,
                           group_column="patient_id")  # fmt: skip
    args = arguments(folder, tmp_path / "out", split_seed=4)
    args.dataset, args.models = str(other), [f"student={student}"]
    models = models_to_evaluate(args.models)
    data = EvaluationData.open(args, models)
    run.check_evaluation(models, data)
    assert (data.args.split_seed, data.columns.group) == (4, "group")


def test_evaluating_on_training_images_is_detected_in_another_file_of_the_same_pixels(folder, tmp_path):
    seen = [*images_of("test")[:5], *images_of("validation")[:2], *images_of("train")]
    student = with_records(folder, "student", tmp_path / "student", "dataset", seen)
    args = arguments(folder, tmp_path / "out", "teacher")
    args.models.append(f"student={student}")
    comparison = run.run_evaluation(args)
    assert comparison.row("student").trained_on == ({"evaluated": 5, "thresholds": 2},)
    assert comparison.row("teacher").trained_on == (None,)
    assert all(pair.no_verdict.startswith("student was trained on 5 of these") for pair in comparison.differences)
    write_report(comparison, tmp_path / "out")
    card = card_for_folder(student, tmp_path / "out" / "comparison.json", "student")
    assert "**Warning: student was trained on 5 of these 23 images, so its numbers are too good.**" in card.content
    assert card.data.eval_results is None
    assert "It was not recorded on which images" not in card.content
    card = card_for_folder(folder / "teacher", tmp_path / "out" / "comparison.json", "teacher")
    assert "- It was not recorded on which images the model was trained, so these may be among them." in card.content


def test_a_fold_that_the_model_was_trained_on_is_refused(folder, tmp_path):
    held = {"folds": 3, "fold": 1, "findings_column": "findings"}
    student = with_records(folder, "student", tmp_path / "student", "dataset", images_of("train"), **held)
    args = arguments(folder, tmp_path / "out", split="fold", threshold_split="none")
    args.models = [f"student={student}"]
    models = models_to_evaluate(args.models)

    def check():
        data = EvaluationData.open(args, models)
        run.check_evaluation(models, data)
        return data.args.fold

    assert check() == 1, "as in the training"
    args.fold = 0
    with pytest.raises(DatasetError, match=r"with --fold 1; got --fold 0\. Add --fold 1\."):
        check()


def test_images_without_ids_have_different_names_in_every_fold(folder, tmp_path):
    """So that the predictions of all folds can be joined."""
    bare = datasets.DatasetDict(
        train=datasets.load_dataset(str(folder / "dataset"))["train"].remove_columns("image_id")
    )
    bare.save_to_disk(tmp_path / "bare")
    names = []
    for fold in range(3):
        args = arguments(folder, tmp_path / "out", split="fold", threshold_split="none", folds=3, fold=fold)
        args.dataset = str(tmp_path / "bare")
        names += EvaluationData.open(args, []).image_names("fold")
    assert len(set(names)) == SIZES["train"]
    assert "fold 2 of 3, row 0" in names


def test_the_evaluated_split_never_chooses_its_own_thresholds(folder, tmp_path):
    args = arguments(folder, tmp_path / "out", "student", split="validation")
    assert run.run_evaluation(args).row("student").thresholds == ()
    # Validation rows that are split off are rows of `train`.
    stored = datasets.load_dataset(str(folder / "dataset"))
    datasets.DatasetDict(train=stored["validation"]).save_to_disk(tmp_path / "single")
    for split, expected in (("train", "none"), ("validation", "none")):
        args = arguments(folder, tmp_path / "out", "student", split=split)
        args.dataset = str(tmp_path / "single")
        assert EvaluationData.open(args, []).args.threshold_split == expected
    args = arguments(folder, tmp_path / "out", "student", split="train")
    assert EvaluationData.open(args, []).args.threshold_split == "validation", "stored rows of their own"


def test_patients_with_images_in_both_splits_are_counted(folder, tmp_path):
    train, test = (datasets.Dataset.from_dict({"patient": names}) for names in (["a", "b", None, ""], ["b", "b", None]))
    splits = datasets.DatasetDict(train=train, test=test)

    def shared(split, group="patient"):
        columns = DatasetColumns(findings=None, group=group)
        return EvaluationData(splits, columns, arguments(folder, tmp_path, split=split)).shared_patients

    assert shared("test") == 1
    assert shared("train") == shared("test", group=None) == 0
    assert shared("validation") == 0, "it is split off by patient"


def test_models_of_two_folds_are_not_compared_on_one_of_them(folder, tmp_path):
    options, models = {"folds": 2, "findings_column": "findings"}, []
    for fold in (0, 1):
        args = arguments(folder, tmp_path / "out", split="fold", folds=2, fold=fold)
        rest, name = EvaluationData.open(args, []).splits["train"]["image"], f"fold-{fold}"
        path = with_records(folder, "student", tmp_path / name, "elsewhere", rest, fold=fold, **options)
        models.append(f"{name}={path}")
    args = arguments(folder, tmp_path / "out", split="fold", threshold_split="none")
    args.models = models
    with pytest.raises(DatasetError, match=r"model fold-1 was trained on this dataset with --fold 1; got --fold 0"):
        run.run_evaluation(args)


def test_columns_are_those_of_the_first_model_with_findings(folder, tmp_path):
    images = images_of("test")[:1]
    models = [
        f"{name}={with_records(folder, name, tmp_path / name, 'elsewhere', images, findings_column=column)}"
        for name, column in (("global", "none"), ("student", "findings"))
    ]
    for order in (models, models[::-1]):
        args = arguments(folder, tmp_path / "out", threshold_split="none")
        args.models = order
        assert EvaluationData.open(args, models_to_evaluate(order)).columns.findings == "findings"


def test_ids_that_repeat_are_named_before_any_model_runs(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "evaluate_model", lambda *args: pytest.fail("a model runs before the mistake is found"))
    stored = datasets.load_dataset(str(folder / "dataset"))
    twice = stored["test"].map(lambda row: {"image_id": "same"})
    datasets.DatasetDict(test=twice).save_to_disk(tmp_path / "twice")
    args = arguments(folder, tmp_path / "out", "student", threshold_split="none")
    args.dataset = str(tmp_path / "twice")
    with pytest.raises(DatasetError, match=r"'same' occurs more than once in the column 'image_id'.*--image_id_column"):
        run.run_evaluation(args)


@pytest.mark.parametrize("name", ["a b", "a-b", "a/b", "a@1", "名前" * 40, "x" * 300])
def test_files_have_names_of_their_own_that_every_disk_takes(name):
    stems = [EvaluatedModel(each, "nowhere", run).file_stem for each in (name, f"{name}2") for run in ("", "1")]
    assert len(set(stems)) == 4
    assert max(map(len, stems)) <= 180
    assert all(stem.isascii() and "/" not in stem for stem in stems)


@pytest.mark.parametrize(("choice", "value"), [("batch_size", 0), ("num_workers", -1), ("seed", -1)])
def test_numbers_that_are_too_small_are_named(folder, tmp_path, choice, value):
    with pytest.raises(RecipeError, match=f"--{choice} must be at least .; got {value}"):
        arguments(folder, tmp_path / "out", "student", **{choice: value})


@pytest.mark.slow
def test_two_processes_equal_one(folder, evaluated, tmp_path):
    # On a machine without GPUs, accelerate's --cpu starts one process (or MPI); its GPU launcher starts two.
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
        str(SCRIPT), "--dataset", str(folder / "dataset"), "--output", str(tmp_path), "--batch_size", "4",
        "--bootstrap_draws", "100", "--models", f"teacher={folder / 'teacher'}", f"student={folder / 'student'}",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Written:") == 1
    assert "AUROC" in done.stdout
    assert json.loads((tmp_path / "comparison.json").read_text())["context"]["num_processes"] == 2
    for name in ("teacher", "student"):
        one, two = (ModelPredictions.load(at / "predictions" / f"{name}.npz") for at in (evaluated, tmp_path))
        assert two.image_ids == one.image_ids
        assert two.global_task.scores == pytest.approx(one.global_task.scores, abs=1e-6)
        assert two.local_task.scores == pytest.approx(one.local_task.scores, abs=1e-6)
        assert two.thresholds == pytest.approx(one.thresholds, abs=1e-6)
        shares = [np.nan_to_num(each.localisation[""].share) for each in (two, one)]
        assert shares[0] == pytest.approx(shares[1], abs=1e-6)


@pytest.mark.slow
def test_the_command_line_ends_with_one_line_on_bad_input(folder, tmp_path):
    command = [sys.executable, str(SCRIPT), "--dataset", str(folder / "dataset"), "--output", str(tmp_path)]
    done = subprocess.run([*command, "--models", "a=b/c/d"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "error: --models a=b/c/d: there is no such folder" in done.stderr
    assert "Traceback" not in done.stderr
