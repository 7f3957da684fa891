"""`mlcak evaluate`, `mlcak compare` and `mlcak check` on tiny datasets: which images count, exit codes, bad input."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from saved_models import RECORD
from tiny_models import tiny_model

from mlcak_hf import MLCAKImageProcessor
from mlcak_hf.cli.main import main
from mlcak_hf.data.collator import MLCAKCollator
from mlcak_hf.data.decoded_images import image_digest
from mlcak_hf.data.shifts import REPORTED_SHIFTS
from mlcak_hf.errors import DatasetError
from mlcak_hf.evaluation.arguments import EvaluatedModel, EvaluationArguments, EvaluationData, models_to_evaluate
from mlcak_hf.evaluation.evidence.data_choice import open_for_model, renamed_labels
from mlcak_hf.evaluation.evidence.record import Evidence
from mlcak_hf.pretrained import load_model, load_processor
from mlcak_hf.probabilities import probabilities
from mlcak_hf.shipped import resolve_checkpoint
from mlcak_hf.training.training_images import TrainingImages, is_trained_on

COUNT = 60


def rows(count=COUNT, seed=0, names=("normal", "pneumonia")):
    rng = np.random.default_rng(seed)
    for row in range(count):
        image = np.tile(np.linspace(40, 200, 32, dtype=np.uint8), (32, 1))
        yield {
            "image": image + rng.integers(0, 30, (32, 32), dtype=np.uint8) + np.uint8(20 * (row % 2)),
            "diagnosis": names[row % 2],
            "patient": f"p{row // 2}",
            "view": "AP" if row % 3 else "PA",
        }


FEATURES = datasets.Features(
    {"image": datasets.Image()} | dict.fromkeys(("diagnosis", "patient", "view"), datasets.Value("string"))
)


def write(path, **changes):
    datasets.Dataset.from_list(list(rows(**changes)), features=FEATURES).to_parquet(path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A file of radiographs with a text label, and a model with the labels Normal and Abnormal."""
    folder = tmp_path_factory.mktemp("evaluate")
    write(folder / "clinic.parquet")
    size = {"height": 16, "width": 16}
    tiny_model(local_labels=[]).save_pretrained(folder / "model")
    MLCAKImageProcessor(size=size).save_pretrained(folder / "model")
    return folder


RENAMED = ("--rename_label", "normal=Normal", "--rename_label", "pneumonia=Abnormal")
FAST = ("--bootstrap_draws", 50, "--robustness_images", 10)


def options(folder, output, *further):
    return ("evaluate", folder / "model", folder / "clinic.parquet", "--output", output, "--label_column", "diagnosis",
            *RENAMED, *FAST, *further)  # fmt: skip


@pytest.fixture(scope="module")
def evaluated(folder):
    """Everything at once: report, JSON and exit code 1 for a requirement."""
    patch = pytest.MonkeyPatch()
    further = (
        "--group_column",
        "patient",
        "--subgroup",
        "view",
        "--prevalence",
        0.05,
        "--require",
        "auroc_global>=1.1",
    )
    patch.setattr(sys, "argv", ["mlcak", *map(str, options(folder, folder / "out", *further))])
    with pytest.raises(SystemExit) as stopped:
        main()
    patch.undo()
    assert stopped.value.code == 1
    return folder / "out"


def test_a_single_file_that_was_not_trained_on_is_used_whole_with_its_text_labels(evaluated):
    evidence = Evidence.load(evaluated)
    assert (evidence.comparison.n_images, evidence.comparison.n_groups) == (COUNT, COUNT // 2)
    assert evidence.comparison.context["images"] == "the whole file"
    count = evidence.comparison.class_counts["global/Abnormal"]
    assert (count.absent, count.present) == (30, 30)
    assert [(each.value, each.images) for each in evidence.subgroups] == [("AP", 40), ("PA", 20)]
    assert {point.chosen_here for point in evidence.labels[0].points} == {True, False}
    assert (evaluated / "report.html").read_text(encoding="utf-8").count("data:image/png") == len(
        evidence.errors
    ) + min(len([error for error in evidence.errors if not error.present]), 2) + min(
        len([error for error in evidence.errors if error.present]), 2
    ) + len(evidence.typical)


def test_perturbed_scores_are_those_of_the_collators_pixels(folder, evaluated):
    evidence = Evidence.load(evaluated)
    assert [shift.name for shift in evidence.shifts] == list(REPORTED_SHIFTS)
    network, processor = (
        load_model(folder / "model"),
        load_processor(folder / "model", load_model(folder / "model").config),
    )
    chosen = np.linspace(0, COUNT - 1, 10).astype(int)
    images = [{"image": row["image"], "index": place} for place, row in enumerate(rows())]
    collator = MLCAKCollator(processor).for_evaluation()
    for name in collator.each_shift():
        with torch.inference_mode():
            logits = network(collator([images[place] for place in chosen])["pixel_values"]).logits
        scores = probabilities(logits, "single_label_classification")[:, 1]
        wins = np.sign(scores[chosen % 2 == 1][:, None] - scores[chosen % 2 == 0])
        (found,) = [shift for shift in evidence.shifts if shift.name == name]
        assert found.auroc.value == pytest.approx((wins.mean() + 1) / 2, abs=1e-6)


def test_requirements_decide_the_exit_code_and_say_which_failed(mlcak, folder, tmp_path):
    code, out, err = mlcak(*options(folder, tmp_path, "--require", "share_refused<=1", "--no-images"))
    assert (code, err) == (0, "")
    assert "Written:" in out
    assert "<img" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    code, _, err = mlcak(*options(folder, tmp_path, "--require", "auroc_global>=1.1", "--no-images"))
    assert code == 1
    assert err.startswith("Requirement auroc_global>=1.1: not met; auroc_global is ")


@pytest.mark.parametrize(
    ("further", "message"),
    [
        (("--require", "auroc_globl>=0.9"), "there is no metric 'auroc_globl'. Did you mean 'auroc_global'"),
        (("--prevalence", "5"), "--prevalence must be between 0 and 1"),
        (("--subgroup", "sex"), "no column 'sex' for --subgroup; it has"),
        (("--subgroup", "image"), "must hold texts, numbers or class labels; 'image' is Image"),
        (("--label_column", "image"), "The label column 'image' must hold names or numbers; it is Image"),
        (("--split", "holdout"), "has no split 'holdout'; it has train"),
        (("--rename_label", "virus=Flu"), "--rename_label must be name=label with one of ['Normal', 'Abnormal']"),
        (("--output", "/dev/null/here"), "--output /dev/null/here cannot be written"),
        (("--label_column", "outcome"), "no column 'outcome' for the label"),
        (("--bootstrap_draws", "5"), "--bootstrap_draws must be at least 40"),
        (("--explanations", "/dev/null"), "/dev/null must be an explanations.json"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_bad_input_is_named_before_the_model_runs(mlcak, folder, tmp_path, monkeypatch, further, message):
    monkeypatch.setattr(
        "mlcak_hf.evaluation.evidence.evaluate.evaluate_network", lambda *args: pytest.fail("the model runs first")
    )
    code, _, err = mlcak(*options(folder, tmp_path, *further))
    assert code == 2
    assert message in err.replace("\n", " ")


def test_a_name_that_the_model_does_not_have_is_named_with_a_remedy(mlcak, folder, tmp_path):
    arguments = [word for word in options(folder, tmp_path) if word not in RENAMED]
    code, _, err = mlcak(*arguments)
    assert code == 2
    assert "holds 'normal'" not in err, "it differs in case only"
    assert "holds 'pneumonia', but the model's labels are ['Normal', 'Abnormal']" in err
    assert "--rename_label pneumonia=LABEL" in err


def test_names_of_every_split_are_checked(mlcak, folder, tmp_path):
    """A name that occurs in the test split alone would otherwise count as missing."""
    train, test = (datasets.Dataset.from_list(list(rows(names=names)), features=FEATURES)
                   for names in (("NORMAL", "abnormal"), ("normal", "covid")))  # fmt: skip
    datasets.DatasetDict(train=train, test=test).save_to_disk(tmp_path / "chests")
    arguments = ("evaluate", folder / "model", tmp_path / "chests", "--output", tmp_path / "out", *FAST,
                 "--label_column", "diagnosis")  # fmt: skip
    code, _, err = mlcak(*arguments)
    assert (code, "holds 'covid', but the model's labels are" in err) == (2, True)
    assert mlcak(*arguments, "--rename_label", "covid=Abnormal")[0] == 0
    assert Evidence.load(tmp_path / "out").comparison.class_counts["global/Abnormal"].present == COUNT // 2


def test_a_missing_class_label_stays_missing_when_names_are_mapped(folder, tmp_path):
    names = datasets.ClassLabel(names=["NORMAL", "ABNORMAL"])
    table = datasets.Dataset.from_list([row | {"diagnosis": -1 if place % 5 == 0 else place % 2}
                                        for place, row in enumerate(rows())],
                                       features=datasets.Features(FEATURES | {"diagnosis": names}))  # fmt: skip
    table.to_parquet(tmp_path / "labels.parquet")
    args = EvaluationArguments(dataset=str(tmp_path / "labels.parquet"), models=[], output="", split="train",
                               label_column="diagnosis", findings_column="none")  # fmt: skip
    renamed = renamed_labels(EvaluationData.open(args, []), ["Normal", "Abnormal"], ())["train"]["diagnosis"]
    assert renamed[:6] == ["", "Abnormal", "Normal", "Abnormal", "Normal", ""]


def test_a_file_of_the_dataset_that_is_missing_or_damaged_is_named(mlcak, folder, tmp_path):
    Image.new("L", (32, 32), 90).save(tmp_path / "good.png")
    (tmp_path / "damaged.png").write_bytes(b"no image")
    for bad in ("missing.png", "damaged.png"):
        lines = ["image,diagnosis", "good.png,Normal", f"{bad},Abnormal"]
        (tmp_path / "list.csv").write_text("\n".join(lines))
        code, _, err = mlcak("evaluate", folder / "model", tmp_path / "list.csv", "--output", tmp_path / "out", *FAST,
                             "--label_column", "diagnosis")  # fmt: skip
        assert (code, "The image of row 1 cannot be read: " in err, bad in err) == (2, True, True)


def test_the_card_of_a_shipped_model_is_not_written_beside_it(mlcak, evaluated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = mlcak("card", "pneumonia-28", "--evaluation", evaluated / "evaluation.json")
    assert (code, "must be a local folder" in err, list(tmp_path.iterdir())) == (2, True, [])
    (tmp_path / "pneumonia-28").mkdir()
    assert Path(resolve_checkpoint("pneumonia-28")).parent.name == "checkpoints", "a folder without a model hides it"


def trained_on(folder, path, images, **options):
    """The model with the records of a training on these images."""
    model = shutil.copytree(folder / "model", path)
    record = RECORD | {"data": {"dataset": "clinic.parquet", "preparation": {}, "group_column": "patient"} | options}
    (model / "training.json").write_text(json.dumps(record))
    TrainingImages.of_run(map(image_digest, images)).save(model)
    return model


def test_of_a_file_that_was_trained_on_only_the_validation_rows_count(mlcak, folder, tmp_path):
    path = write(tmp_path / "clinic.parquet", names=("Normal", "Abnormal"))
    images = [row["image"] for row in rows()]
    model = trained_on(folder, tmp_path / "model", images[:50], label_column="diagnosis", validation_fraction=0.2)
    assert mlcak("evaluate", model, path, "--output", tmp_path / "out", *FAST)[0] == 0
    evidence = Evidence.load(tmp_path / "out")
    assert evidence.comparison.context["split"] == "validation"
    assert evidence.comparison.n_images == 12
    assert "validation images: the model was chosen" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    # Whole, if asked for, but marked.
    code, out, err = mlcak("evaluate", model, path, "--output", tmp_path / "all", *FAST, "--split", "train",
                           "--require", "auroc_global>=0")  # fmt: skip
    assert code == 1
    assert "The model was trained on" in out
    assert "because the model was trained on" in err


@pytest.mark.parametrize(("train_rows", "split"), [(COUNT - 12, "validation"), (COUNT, "train")])
def test_without_records_of_its_images_the_name_and_length_tell_what_a_model_was_trained_on(
    folder, tmp_path, train_rows, split
):
    path = write(tmp_path / "clinic.parquet", names=("Normal", "Abnormal"))
    model = trained_on(folder, tmp_path / "model", [], label_column="diagnosis", validation_fraction=0.2)
    (model / "training_images.json").unlink()
    record = json.loads((model / "training.json").read_text())
    record |= {"train": {"rows": train_rows}, "validation": {"rows": 12}}
    (model / "training.json").write_text(json.dumps(record))
    arguments = EvaluationArguments(dataset=str(path), models=[], output="", split="")
    assert open_for_model(arguments, EvaluatedModel("model", str(model))).args.split == split


def test_folds_of_the_training_do_not_cut_another_file(mlcak, folder, tmp_path):
    path = write(tmp_path / "other.parquet", names=("Normal", "Abnormal"))
    elsewhere = [row["image"] for row in rows(seed=9)]
    model = trained_on(folder, tmp_path / "model", elsewhere, label_column="diagnosis", folds=5, fold=1)
    assert mlcak("evaluate", model, path, "--output", tmp_path / "out", *FAST)[0] == 0
    assert Evidence.load(tmp_path / "out").comparison.n_images == COUNT
    # Nor in a comparison, nor a dataset without training rows.
    compared = EvaluationArguments(
        dataset=str(path), models=[f"m={model}"], output="", split="train", findings_column="none"
    )
    models = models_to_evaluate(compared.models)
    assert len(EvaluationData.open(compared, models).split("train")) == COUNT
    datasets.DatasetDict(test=datasets.Dataset.from_parquet(str(path))).save_to_disk(tmp_path / "test-only")
    assert mlcak("evaluate", model, tmp_path / "test-only", "--output", tmp_path / "test", *FAST)[0] == 0
    assert Evidence.load(tmp_path / "test").comparison.n_images == COUNT
    with pytest.raises(DatasetError, match="Folds are parts of the split 'train'; the dataset has test"):
        EvaluationData.open(replace(compared, dataset=str(tmp_path / "test-only"), folds=5), models)


@pytest.mark.parametrize("limit", [8, 30, 48])
def test_a_dataset_is_recognized_by_the_share_that_a_training_drew(folder, tmp_path, limit):
    path = write(tmp_path / "clinic.parquet", names=("Normal", "Abnormal"))
    images = [row["image"] for row in rows()]
    model = trained_on(folder, tmp_path / "model", images[:limit])
    all_rows = datasets.Dataset.from_parquet(str(path)).cast_column("image", datasets.Image())
    assert is_trained_on(model, "other name", all_rows, "image")
    # A few shared images do not make it the same.
    elsewhere = [row["image"] for row in rows(seed=9)]
    TrainingImages.of_run(map(image_digest, [*elsewhere, *images[:5]])).save(model)
    assert not is_trained_on(model, "clinic.parquet", all_rows, "image")


def test_the_card_takes_the_evaluation_and_check_passes_until_the_weights_change(mlcak, folder, evaluated, tmp_path):
    model = shutil.copytree(folder / "model", tmp_path / "renamed")
    code, _, err = mlcak("check", model)
    assert code == 2
    assert "There is no self-check" in err
    assert mlcak("card", model, "--evaluation", evaluated / "evaluation.json")[0] == 0
    card = (model / "README.md").read_text(encoding="utf-8")
    for part in ("fixed beforehand", "view AP", "prevalence of 5 %", "Self-check: for the phantom of seed 0"):
        assert part in card
    assert mlcak("check", model)[:2] == (0, f"{model}: 2 probabilities as they must be (the same weights).\n")
    tiny_model(seed=1, local_labels=[]).save_pretrained(model)
    code, _, err = mlcak("check", model)
    assert code == 1
    assert "but it must be" in err
    assert mlcak("card", model, "--evaluation", evaluated / "evaluation.json")[0] == 2, "other weights"


def test_the_card_takes_notes_and_results_on_other_datasets(mlcak, folder, evaluated, tmp_path):
    model = shutil.copytree(folder / "model", tmp_path / "noted")
    (tmp_path / "notes.md").write_text("## What the model knows\n\nChildren of one hospital.\n", encoding="utf-8")
    seen = json.loads((evaluated / "evaluation.json").read_text(encoding="utf-8"))
    seen["comparison"]["rows"][0]["trained_on"] = [{"evaluated": 7}]
    (tmp_path / "seen.json").write_text(json.dumps(seen), encoding="utf-8")
    further = ["--other-dataset", evaluated / "evaluation.json", "--other-dataset", tmp_path / "seen.json"]
    further += ["--notes", tmp_path / "notes.md"]
    assert mlcak("card", model, "--evaluation", evaluated / "evaluation.json", *further)[0] == 0
    headings = re.split(r"^## ", (model / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    names = [heading.splitlines()[0] for heading in headings[1:]]
    assert names[:2] == ["What the model knows", "How to use"]
    assert names[names.index("Limits") - 1] == "Other datasets"
    found = Evidence.load(evaluated)
    auroc = f"{found.row.metrics['auroc_global'].value:.3f}"
    table = headings[names.index("Other datasets") + 1].splitlines()
    marks = ("not known whether trained on these images", "7 of these images were used in training")
    for row, mark in zip([line for line in table if "clinic.parquet" in line], marks, strict=True):
        assert row.startswith(f"| {found.row.name} | clinic.parquet | {COUNT} ({mark}) | {auroc} [")
    assert mlcak("card", model, "--notes", tmp_path / "nothing.md")[0] == 2


def test_images_without_contrast_are_counted_as_refused(mlcak, folder, tmp_path):
    flat = [row | {"image": np.full((32, 32), 90, np.uint8)} if place < 6 else row for place, row in enumerate(rows())]
    datasets.Dataset.from_list(flat, features=FEATURES).to_parquet(tmp_path / "clinic.parquet")
    assert mlcak("evaluate", folder / "model", tmp_path / "clinic.parquet", "--output", tmp_path / "out", *FAST,
                 "--label_column", "diagnosis", *RENAMED)[0] == 0  # fmt: skip
    evidence = Evidence.load(tmp_path / "out")
    assert evidence.inputs.refused == {"no contrast": 6}
    assert evidence.share_refused >= 0.1


def test_compare_takes_the_options_of_its_script(mlcak, folder, tmp_path):
    path = write(tmp_path / "data.parquet", names=("Normal", "Abnormal"))
    shared = ("--dataset", path, "--split", "train", "--threshold_split", "none", "--label_column", "diagnosis",
              "--findings_column", "none", "--bootstrap_draws", 50, "--output", tmp_path / "out")  # fmt: skip
    code, out, _ = mlcak("compare", "--models", f"a={folder / 'model'}", f"b={folder / 'model'}", *shared)
    assert code == 0
    assert "b - a, AUROC global: +0.000" in out
    assert (tmp_path / "out" / "comparison.json").is_file()
    code, _, err = mlcak("compare", "--models", "a", *shared)
    assert code == 1
    assert "error: --models must have the form name=folder" in err
    code, out, _ = mlcak("compare", "--help")
    assert code == 0
    assert "--baseline" in out


def test_a_read_only_folder_is_named(mlcak, folder, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = mlcak(*options(folder, Path(tmp_path / "file")))
    assert code == 2
    assert "cannot be written" in err
