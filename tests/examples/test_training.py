"""The training scripts: from rows to a saved teacher and student, in one process and two, and their one-line errors."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
)

from mlcak_hf import MLCAKForCXRClassification
from mlcak_hf.data import device_views
from mlcak_hf.data.decoded_images import image_digest
from mlcak_hf.distillation.cache.store import TeacherCache
from mlcak_hf.errors import CacheError, DatasetError, DistillationError, RecipeError
from mlcak_hf.evaluation.arguments import EvaluationArguments, EvaluationData
from mlcak_hf.evaluation.run import run_evaluation
from mlcak_hf.training.models import ModelArguments, build_model
from mlcak_hf.training.training_images import TrainingImages

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "distillation"
RECIPE = """
num_train_epochs: 2
per_device_train_batch_size: 8
learning_rate: 1e-3
eval_strategy: epoch
save_strategy: epoch
load_best_model_at_end: true
metric_for_best_model: auroc_global
logging_steps: 1
report_to: none
seed: 1
"""


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # get_type_hints looks a dataclass's module up
    spec.loader.exec_module(module)
    return module


def run(monkeypatch, name: str, *arguments) -> None:
    module = load(name)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    module.main()


def size(folder: Path, image_size: int, patch_size: int, layers: int) -> Path:
    """A model size of a user's own: a folder with two small files."""
    backbone = {"model_type": "vit", "image_size": image_size, "patch_size": patch_size, "num_channels": 1}
    backbone |= {"hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 32}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "mlcak", "backbone_config": backbone}))
    settings = {"image_processor_type": "MLCAKImageProcessor", "size": {"height": image_size, "width": image_size}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | {"image_mean": [0.4], "image_std": [0.2]}))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A dataset as `mlcak prepare` lays it out, two sizes and a recipe."""
    folder = tmp_path_factory.mktemp("training")
    rng = np.random.default_rng(0)
    rows = [
        {
            "image_id": f"image-{i}",
            "label": i % 2,
            "findings": {"Edema": i % 2, "ILD": -1, "Nodule/Mass": int(rng.integers(-1, 2))},
            "group": f"patient-{i // 2}",
        }
        for i in range(40)
    ]
    (folder / "dataset" / "data").mkdir(parents=True)
    for split, chosen in (("train", rows[:26]), ("validation", rows[26:])):
        images = [(100 * rng.random((32, 32)) + 100 * row["label"]).astype(np.uint8) for row in chosen]
        columns = {name: [row[name] for row in chosen] for name in chosen[0]}
        table = Dataset.from_dict(columns | {"image": [PIL.Image.fromarray(image) for image in images]})
        table.to_parquet(folder / "dataset" / "data" / f"{split}-00000-of-00001.parquet")
    preparation = {"format_version": 3, "choices": {"fit": "squash", "voi": "percentile"}}
    preparation |= {"sources": {}, "splits": {}, "skipped": [], "suspect_images": {}, "fingerprint": ""}
    preparation |= {"software": {}, "table_notes": []}
    (folder / "dataset" / "preparation.json").write_text(json.dumps(preparation))
    size(folder / "large", 32, 4, layers=4)
    size(folder / "small", 16, 4, layers=2)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def teacher(made) -> Path:
    with pytest.MonkeyPatch.context() as monkeypatch:
        arguments = ["--config", made / "recipe.yaml", "--dataset", made / "dataset", "--model", made / "large"]
        run(monkeypatch, "train_teacher", *arguments, "--output_dir", made / "teacher")
    return made / "teacher"


def student_arguments(made: Path, output: Path) -> list:
    return [
        "--config",
        made / "recipe.yaml",
        "--dataset",
        made / "dataset",
        "--model",
        made / "small",
        "--output_dir",
        output,
    ]


def test_a_teacher_is_trained_and_saved_whole(teacher):
    model = AutoModelForImageClassification.from_pretrained(teacher)
    processor = AutoImageProcessor.from_pretrained(teacher)
    assert model.config.id2label == {0: "Normal", 1: "Abnormal"}
    assert model.config.local_labels == ["Edema", "Nodule/Mass"], "nobody annotated ILD"
    assert processor.size == {"height": 32, "width": 32}
    assert (processor.fit, processor.voi) == ("squash", "percentile"), "as the dataset was prepared"
    assert list(processor.image_mean) == [0.4], "as the size says"
    record = json.loads((teacher / "training.json").read_text())
    assert record["train"]["rows"] == 26
    assert record["train"]["global"] == {"Normal": 13, "Abnormal": 13}
    assert record["validation"]["metrics"]["eval_auroc_global"] == pytest.approx(record["best_metric"])
    assert any("loss_local" in entry for entry in record["log"])
    assert record["data"]["preparation"] == {"fit": "squash", "voi": "percentile"}
    assert (teacher / "curves.png").stat().st_size > 10_000
    assert len(json.loads((teacher / "training_images.json").read_text())["sets"][0]["hashes"]) == 26
    assert str(teacher.parent) not in (teacher / "training.json").read_text(), "no local path in what may be published"


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_text_labels_in_a_file_beside_the_images_train(made, monkeypatch, tmp_path, suffix):
    rows = [{"image": f"{i}.png", "label": ("normal", "pneumonia")[i % 2]} for i in range(16)]
    for i, row in enumerate(rows):
        PIL.Image.fromarray(np.full((32, 32), 90 + i, np.uint8)).save(tmp_path / row["image"])
    lines = ["image,label", *(f"{row['image']},{row['label']}" for row in rows)]
    (tmp_path / f"rows.{suffix}").write_text(json.dumps(rows) if suffix == "json" else "\n".join(lines))
    arguments = ["--config", made / "recipe.yaml", "--dataset", tmp_path / f"rows.{suffix}", "--model", made / "large"]
    arguments += ["--findings_column", "none", "--validation_fraction", "0.5", "--num_train_epochs", "1"]
    run(monkeypatch, "train_teacher", *arguments, "--output_dir", tmp_path / "teacher")
    model = MLCAKForCXRClassification.from_pretrained(tmp_path / "teacher")
    assert model.config.id2label == {0: "normal", 1: "pneumonia"}


def test_a_student_is_distilled_and_every_part_logged(made, teacher, monkeypatch):
    run(monkeypatch, "distil_student", *student_arguments(made, made / "student"), "--teacher", teacher)
    record = json.loads((made / "student" / "training.json").read_text())
    parts = {"loss_global", "loss_local", "distil_global", "distil_local", "distil_attention"}
    assert parts <= set(record["log"][0])
    assert record["model"]["teacher"] == ["teacher"]
    model = AutoModelForImageClassification.from_pretrained(made / "student")
    assert model.config.image_size == 16
    assert model.config.local_labels == ["Edema", "Nodule/Mass"]
    pixels = AutoImageProcessor.from_pretrained(made / "student")(np.zeros((50, 40), np.uint8), return_tensors="pt")
    assert model(**pixels).logits.shape == (1, 2)


def test_a_student_is_distilled_with_views_on_the_device_online_and_from_a_cache(made, teacher, monkeypatch):
    arguments = [*student_arguments(made, made / "device"), "--teacher", teacher, "--device_views", True]
    run(monkeypatch, "distil_student", *arguments)
    record = json.loads((made / "device" / "training.json").read_text())
    assert record["data"]["device_views"] is True
    assert {"distil_global", "distil_local", "distil_attention"} <= set(record["log"][0])
    cached = [*arguments, "--teacher_cache", made / "device-cache", "--cache_views", 1]
    run(monkeypatch, "distil_student", *cached)
    with pytest.raises(CacheError, match="definition: expected 3, found 3, made on the device"):
        run(monkeypatch, "distil_student", *cached, "--device_views", False)
    with pytest.raises(RecipeError, match="device_views needs augment and decode_once"):
        run(monkeypatch, "distil_student", *arguments, "--augment", False)
    monkeypatch.setattr(device_views, "_free_bytes", lambda device: 1000)
    run(monkeypatch, "distil_student", *arguments)
    assert json.loads((made / "device" / "training.json").read_text())["data"]["device_views"] is False


def test_a_cnn_is_trained_evaluated_and_teaches_logits_beside_a_teacher_with_attention(made, teacher, monkeypatch):
    cnn = size(made / "cnn-size", 24, 4, layers=1)
    backbone = {"model_type": "resnet", "image_size": 24, "num_channels": 1, "embedding_size": 8}
    backbone |= {"hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    (cnn / "config.json").write_text(json.dumps({"model_type": "mlcak", "backbone_config": backbone}))
    arguments = ["--config", made / "recipe.yaml", "--dataset", made / "dataset", "--model", cnn]
    run(monkeypatch, "train_teacher", *arguments, "--output_dir", made / "cnn")
    assert AutoModelForImageClassification.from_pretrained(made / "cnn").config.local_labels == ["Edema", "Nodule/Mass"]
    arguments = [*student_arguments(made, made / "both"), "--teacher", made / "cnn", teacher]
    run(monkeypatch, "distil_student", *arguments)
    log = json.loads((made / "both" / "training.json").read_text())["log"]
    assert any({"distil_global", "distil_local", "distil_attention"} <= entry.keys() for entry in log)
    where = {
        "dataset": str(made / "dataset"),
        "output": str(made / "out"),
        "split": "validation",
        "bootstrap_draws": 40,
    }
    compared = run_evaluation(EvaluationArguments(models=[f"cnn={made / 'cnn'}", f"both={made / 'both'}"], **where))
    assert [row.name for row in compared.rows] == ["cnn", "both"]


def test_a_plain_student_and_one_of_the_global_task_only_share_its_initial_weights(made, monkeypatch):
    plain = ["--alpha", 0, "--beta", 0, "--gamma", 0, "--learning_rate", 0]
    run(monkeypatch, "distil_student", *student_arguments(made, made / "plain"), *plain)
    run(monkeypatch, "distil_student", *student_arguments(made, made / "global"), *plain, "--findings", "none")
    weights = [
        AutoModelForImageClassification.from_pretrained(made / name).state_dict() for name in ("plain", "global")
    ]
    assert not any("local" in name for name in weights[1])
    backbone = [name for name in weights[1] if name.startswith("backbone")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in backbone)


def test_a_cache_is_built_by_one_script_and_used_by_the_other(made, teacher, monkeypatch, capsys):
    cache = ["--teacher_cache", made / "cache"]
    arguments = [*student_arguments(made, made / "cached"), *cache]
    run(monkeypatch, "cache_teacher", *arguments, "--teacher", teacher, "--cache_views", 2)
    assert "2 views of 26 images" in capsys.readouterr().out
    before = {path.name: path.stat().st_mtime_ns for path in (made / "cache").iterdir()}
    run(monkeypatch, "distil_student", *arguments)
    assert before == {path.name: path.stat().st_mtime_ns for path in (made / "cache").iterdir()}
    run(monkeypatch, "distil_student", *student_arguments(made, made / "online"), "--teacher", teacher)
    cached, online = (json.loads((made / name / "training.json").read_text()) for name in ("cached", "online"))
    for ours, theirs in zip(cached["log"], online["log"], strict=True):
        if "loss" in ours:
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
    assert cached["model"]["teacher_cache"] == "cache", "no local path"
    with pytest.raises(CacheError, match="number of views: expected 3, found 2"):
        run(monkeypatch, "distil_student", *arguments, "--teacher", teacher, "--cache_views", 3)
    with pytest.raises(CacheError, match=r"views, ranges, rotation_deg: expected 3\.0, found 10\.0"):
        run(monkeypatch, "distil_student", *arguments, "--rotation_deg", 3)
    other = copy_with_rows(made / "dataset", made / "fewer", range(20))
    with pytest.raises(CacheError, match="number of images: expected 20, found 26"):
        run(monkeypatch, "distil_student", *arguments, "--dataset", other)
    with pytest.raises(RecipeError, match="--teacher and --teacher_cache must be given"):
        run(monkeypatch, "cache_teacher", *arguments)


def copy_with_rows(source: Path, folder: Path, rows) -> Path:
    """The same dataset with other training rows."""
    shutil.copytree(source, folder)
    path = folder / "data" / "train-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).take(list(rows)), path)
    return folder


def launch_in_two_processes(script: str, *arguments) -> str:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2]
    command += ["--main_process_port", 0, "--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += [EXAMPLES / f"{script}.py", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


def test_two_processes_build_the_cache_that_one_builds(made, teacher, monkeypatch):
    """A shard of 128 images each: 140 images are two shards."""
    many = copy_with_rows(made / "dataset", made / "many", [i % 26 for i in range(140)])
    arguments = [*student_arguments(made, made / "unused"), "--dataset", many, "--teacher", teacher]
    arguments += ["--cache_views", 1]
    run(monkeypatch, "cache_teacher", *arguments, "--teacher_cache", made / "one")
    assert "1 views of 140" in launch_in_two_processes("cache_teacher", *arguments, "--teacher_cache", made / "both")
    assert len(list((made / "both").glob("shard-*"))) == 2
    one, both = (TeacherCache(made / name) for name in ("one", "both"))
    assert one.key == both.key
    ours, theirs = (cache.read(range(140), 0) for cache in (both, one))
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.attention, theirs.attention, rtol=1e-3, atol=1e-6)
    assert len({tuple(row) for row in ours.logits.tolist()}) == 140, "every view is another"


def test_two_processes_distil_a_student(made, teacher):
    launch_in_two_processes("distil_student", *student_arguments(made, made / "two"), "--teacher", teacher)
    record = json.loads((made / "two" / "training.json").read_text())
    # 26 images over 2 processes x 8: two steps an epoch, not the four of one process.
    assert record["steps"] == 4
    assert AutoModelForImageClassification.from_pretrained(made / "two").config.image_size == 16


def test_a_run_is_resumed(made, monkeypatch):
    plain = [*student_arguments(made, made / "resumed"), "--alpha", 0, "--beta", 0, "--gamma", 0]
    run(monkeypatch, "distil_student", *plain, "--num_train_epochs", 1)
    run(monkeypatch, "distil_student", *plain, "--resume_from_checkpoint", made / "resumed" / "checkpoint-4")
    record = json.loads((made / "resumed" / "training.json").read_text())
    assert [entry["step"] for entry in record["log"] if "loss" in entry] == list(range(1, 9))


def test_wrong_options_are_refused_with_the_reason(made, teacher, monkeypatch, tmp_path):
    arguments = student_arguments(made, tmp_path)
    with pytest.raises(RecipeError, match="--teacher must be given"):
        run(monkeypatch, "distil_student", *arguments)
    with pytest.raises(DistillationError, match="nowhere"):
        run(monkeypatch, "distil_student", *arguments, "--teacher", tmp_path / "nowhere")
    with pytest.raises(DistillationError, match=r"\['Nodule/Mass'\].* only in the teacher"):
        run(monkeypatch, "distil_student", *arguments, "--teacher", teacher, "--findings", "Edema")
    with pytest.raises(DatasetError, match="no column 'diagnosis'"):
        run(monkeypatch, "train_teacher", *arguments, "--label_column", "diagnosis")
    with pytest.raises(RecipeError, match=r"push_to_hub must be false.* Upload the trained model with `mlcak push`"):
        run(monkeypatch, "train_teacher", *arguments, "--push_to_hub", "true")
    with pytest.raises(RecipeError, match="gamma must be"):
        run(monkeypatch, "distil_student", *arguments, "--gamma", "-1")
    with pytest.raises(DatasetError, match="with --label_column label; got --label_column group"):
        run(monkeypatch, "distil_student", *arguments, "--teacher", teacher, "--label_column", "group")


def test_an_error_at_the_shell_is_one_line(tmp_path):
    (tmp_path / "recipe.yaml").write_text("learning_rat: 1e-3\n")
    command = [sys.executable, "-m", "accelerate.commands.launch", "-q", "--num_processes", 1]
    command += [EXAMPLES / "train_teacher.py", "--config", tmp_path / "recipe.yaml", "--dataset", "none"]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=200)
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    assert ran.stderr.strip().splitlines()[-1].endswith("Did you mean 'learning_rate'?")


def test_without_a_terminal_an_evaluation_is_one_line(made):
    """Progress bars and dumps of every metric would fill the log of a long run."""
    command = [sys.executable, EXAMPLES / "distil_student.py", *student_arguments(made, made / "quiet"), *PLAIN]
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=200, check=True)
    *evaluations, last = ran.stdout.strip().splitlines()
    assert last.startswith("Model, image processor and training.json")
    assert [line.split(",")[0] for line in evaluations] == ["epoch 1", "epoch 2", "epoch 2"]
    assert all("eval_loss" in line and "eval_auroc_global" in line and len(line) < 100 for line in evaluations)
    assert "it/s" not in ran.stderr


PLAIN = ["--alpha", 0, "--beta", 0, "--gamma", 0]
LAST_CHECKPOINT = ["--load_best_model_at_end", "false", "--metric_for_best_model", "eval_loss"]


@pytest.fixture
def no_decoding(monkeypatch):
    """Fail if the dataset is decoded, which takes long."""

    def decode(*args, **kwargs):
        pytest.fail("the dataset is decoded before the mistake is found")

    monkeypatch.setattr("mlcak_hf.data.training_data.decode_once", decode)


def plain_vit(folder: Path, processor: bool = True) -> Path:
    """A ViT, not an MLCAK model."""
    config = ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32)
    ViTForImageClassification(config).save_pretrained(folder)
    if processor:
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def copy_of(teacher: Path, folder: Path) -> Path:
    shutil.copytree(teacher, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
    return folder


def with_columns(source: Path, folder: Path, change) -> Path:
    """The same dataset with other rows: `change` gets (split, table) and returns a table."""
    shutil.copytree(source, folder)
    for split in ("train", "validation"):
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        pq.write_table(change(split, pq.read_table(path)), path)
    return folder


def relabelled(table, label=None, finding=None):
    """All rows with this label and this value of every finding; None leaves them as they are."""
    if label is not None:
        table = table.set_column(table.column_names.index("label"), "label", [[label] * len(table)])
    if finding is not None:
        findings = [dict.fromkeys(row, finding) for row in table["findings"].to_pylist()]
        table = table.set_column(table.column_names.index("findings"), "findings", [findings])
    return table


def test_a_backbone_is_folded_for_the_normalisation_of_the_size(made, tmp_path):
    config = ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32)
    ViTModel(config).save_pretrained(tmp_path)
    ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7]).save_pretrained(tmp_path)
    labels = {
        "id2label": {0: "Normal", 1: "Abnormal"},
        "local_labels": [],
        "problem_type": "single_label_classification",
    }
    model, _ = build_model(ModelArguments(model=str(made / "small"), backbone=str(tmp_path)), labels)
    expected = MLCAKForCXRClassification.from_backbone(tmp_path, 16, 4, image_mean=[0.4], image_std=[0.2], **labels)
    for name, weight in expected.backbone.state_dict().items():
        torch.testing.assert_close(model.backbone.state_dict()[name], weight, msg=name)


def test_models_that_cannot_be_loaded_are_named_with_a_remedy(made, teacher, monkeypatch, tmp_path, no_decoding):
    arguments = student_arguments(made, tmp_path / "out")
    vit = plain_vit(tmp_path / "vit")

    def refused(error, message, *changes, script="distil_student"):
        with pytest.raises(error, match=message):
            run(monkeypatch, script, *arguments, *changes)

    refused(
        DistillationError,
        r"ViTForImageClassification must have a label in common.*'LABEL_0', 'LABEL_1'",
        "--teacher",
        teacher,
        vit,
    )
    refused(
        DistillationError,
        "nowhere' cannot be loaded: there is no such folder",
        "--teacher",
        teacher,
        tmp_path / "nowhere",
    )
    bare = copy_of(teacher, tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    refused(DistillationError, "image processor of the teacher .*bare.*preprocessor_config", "--teacher", teacher, bare)
    other = copy_of(teacher, tmp_path / "other")
    shutil.copy(made / "small" / "preprocessor_config.json", other)
    refused(DistillationError, r"other' must make images of .*\(1, 32, 32\); got \(1, 16, 16\)", "--teacher", other)
    cut = copy_of(teacher, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((teacher / "model.safetensors").read_bytes()[:-100])
    refused(DistillationError, "cut' cannot be loaded.*weights again", "--teacher", cut)
    cached = ["--teacher", cut, "--teacher_cache", tmp_path / "cache"]
    refused(DistillationError, "cut' cannot be loaded.*weights again", *cached)
    refused(DistillationError, "cut' cannot be loaded.*weights again", *cached, script="cache_teacher")
    (cut / "model.safetensors").unlink()
    refused(DistillationError, "cut' cannot be loaded.*no weights", "--teacher", cut)

    refused(RecipeError, "'a/b/c' cannot be loaded: there is no such folder", *PLAIN, "--model", "a/b/c")
    refused(RecipeError, "'runs/studnt' cannot be loaded: it is neither", *PLAIN, "--model", "runs/studnt")
    refused(RecipeError, "vit' cannot be loaded.*model_type must be 'mlcak'; got 'vit'", *PLAIN, "--model", vit)
    refused(RecipeError, "backbone 'runs/none' cannot be loaded: it is neither", *PLAIN, "--backbone", "runs/none")
    refused(RecipeError, "backbone .*teacher' cannot be loaded.*--model", *PLAIN, "--backbone", teacher)
    refused(RecipeError, "local_loss_weight must be a finite number >= 0; got -1", "--local_loss_weight", "-1")


def test_teachers_that_do_not_fit_are_refused_before_decoding(made, teacher, monkeypatch, tmp_path, no_decoding):
    arguments = [*student_arguments(made, tmp_path), "--teacher", teacher]
    with pytest.raises(DistillationError, match=r"student_levels must be between .* got \[9\]"):
        run(monkeypatch, "distil_student", *arguments, "--student_levels", 9)
    with pytest.raises(DistillationError, match="same local findings"):
        run(monkeypatch, "distil_student", *arguments, "--findings", "Edema")


@pytest.mark.parametrize("script", ["train_teacher", "distil_student"])
def test_a_best_metric_that_validation_does_not_define_is_refused(made, monkeypatch, tmp_path, no_decoding, script):
    def one_class(split, table):
        return relabelled(table, label=1) if split == "validation" else table

    dataset = with_columns(made / "dataset", tmp_path / "dataset", one_class)
    arguments = [*student_arguments(made, tmp_path / "out"), "--dataset", dataset, *PLAIN]
    with pytest.raises(RecipeError, match=r"auroc_global.*for 14 images, Normal 0, Abnormal 14.*eval_loss"):
        run(monkeypatch, script, *arguments)
    with pytest.raises(RecipeError, match="auroc/ILD"):
        run(monkeypatch, script, *arguments, "--metric_for_best_model", "auroc/ILD")


def test_the_remedy_for_one_class_trains(made, monkeypatch, tmp_path):
    def one_class(split, table):
        return relabelled(table, label=1) if split == "validation" else table

    dataset = with_columns(made / "dataset", tmp_path / "dataset", one_class)
    arguments = [*student_arguments(made, tmp_path / "out"), "--dataset", dataset, *PLAIN]
    run(monkeypatch, "distil_student", *arguments, "--metric_for_best_model", "eval_loss")
    assert json.loads((tmp_path / "out" / "training.json").read_text())["best_metric"] > 0


@pytest.mark.parametrize(
    ("change", "columns"),
    [
        (None, ["--label_column", "none", "--findings_column", "none"]),
        (lambda split, table: table.drop_columns(["label", "findings"]), []),
        (lambda split, table: relabelled(table, -1, -1), []),
    ],
    ids=["none", "absent", "all missing"],
)
def test_a_teacher_teaches_on_images_without_labels(made, teacher, monkeypatch, tmp_path, change, columns):
    dataset = made / "dataset" if change is None else with_columns(made / "dataset", tmp_path / "dataset", change)
    arguments = [*student_arguments(made, tmp_path / "out"), "--dataset", dataset, *columns]
    run(monkeypatch, "distil_student", *arguments, "--teacher", teacher, *LAST_CHECKPOINT)
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    first = record["log"][0]
    assert first["loss_global"] == first["loss_local"] == 0
    assert min(first[name] for name in ("distil_global", "distil_local", "distil_attention")) > 0
    assert record["train"]["local"] == {"Edema": [0, 0], "Nodule/Mass": [0, 0]}


def test_without_labels_wrong_options_are_refused_before_decoding(made, teacher, monkeypatch, tmp_path, no_decoding):
    missing = with_columns(made / "dataset", tmp_path / "dataset", lambda split, table: relabelled(table, -1, -1))
    arguments = [*student_arguments(made, tmp_path / "out"), "--dataset", missing]
    taught = ["--teacher", teacher]
    with pytest.raises(RecipeError, match=r"auroc_global.*--load_best_model_at_end false --metric_for_best_model eval"):
        run(monkeypatch, "distil_student", *arguments, *taught)
    with pytest.raises(RecipeError, match=r"eval_loss.*--load_best_model_at_end false"):
        run(monkeypatch, "distil_student", *arguments, *taught, "--metric_for_best_model", "eval_loss")
    with pytest.raises(DistillationError, match="nothing to learn"):
        run(monkeypatch, "distil_student", *arguments, *PLAIN, *LAST_CHECKPOINT)
    with pytest.raises(DistillationError, match="nothing to learn"):
        run(monkeypatch, "train_teacher", *arguments, *LAST_CHECKPOINT)
    none = ["--label_column", "none", "--findings_column", "none"]
    with pytest.raises(DatasetError, match="both are none"):
        run(monkeypatch, "distil_student", *arguments, *PLAIN, *none)
    with pytest.raises(DatasetError, match="no column 'diagnosis'"):
        run(monkeypatch, "distil_student", *arguments, *taught, "--label_column", "diagnosis")


def test_global_labels_alone_can_be_taught_by_a_teacher_with_findings(made, teacher, monkeypatch, tmp_path):
    dataset = with_columns(made / "dataset", tmp_path / "data", lambda split, table: table.drop_columns(["findings"]))
    arguments = [*student_arguments(made, tmp_path / "out"), "--dataset", dataset, "--teacher", teacher]
    run(monkeypatch, "distil_student", *arguments)
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["train"]["global"] == {"Normal": 13, "Abnormal": 13}
    assert record["log"][0]["loss_local"] == 0
    assert record["log"][0]["distil_local"] > 0


def test_a_head_is_kept_for_the_same_labels_only(teacher):
    trained = AutoModelForImageClassification.from_pretrained(teacher)
    arguments = ModelArguments(model=str(teacher))
    kind = {"problem_type": "single_label_classification"}
    same, _ = build_model(
        arguments, kind | {"id2label": {0: "Abnormal", 1: "Normal"}, "local_labels": ["Edema", "ILD"]}
    )
    assert torch.equal(same.classifier.weight, trained.classifier.weight[[1, 0]]), "the same labels in another order"
    assert torch.equal(same.classifier.bias, trained.classifier.bias[[1, 0]])
    assert not torch.equal(same.local_classifier.weight, trained.local_classifier.weight), "as many, but others"
    assert not same.local_classifier.bias.any()
    assert same.local_classifier.weight.std() < 0.05
    kept, _ = build_model(arguments, kind | {"id2label": {0: "a", 1: "b"}, "local_labels": trained.config.local_labels})
    assert torch.equal(kept.local_classifier.weight, trained.local_classifier.weight)
    assert not torch.equal(kept.classifier.weight, trained.classifier.weight)


def test_teacher_student_and_evaluation_share_the_split(made, monkeypatch, tmp_path):
    """Without a validation split, rows are split off by options that the student and the evaluation must not change."""
    dataset = shutil.copytree(made / "dataset", tmp_path / "data")
    next((dataset / "data").glob("validation*")).unlink()
    arguments = [*student_arguments(made, tmp_path / "student"), "--num_train_epochs", 1, "--validation_fraction", 0.4]
    arguments += ["--dataset", dataset, "--metric_for_best_model", "eval_loss"]
    teacher = ["--model", made / "large", "--output_dir", tmp_path / "teacher", "--split_seed", 3]
    run(monkeypatch, "train_teacher", *arguments, *teacher)
    distil = [*arguments, "--teacher", tmp_path / "teacher", "--split_seed"]
    with pytest.raises(
        DatasetError, match=r"the teacher .*with --split_seed 3; got --split_seed 4\. Add --split_seed 3"
    ):
        run(monkeypatch, "distil_student", *distil, 4)
    renamed = shutil.copytree(dataset, tmp_path / "renamed")
    with pytest.raises(DatasetError, match=r"the teacher .* got --split_seed 4"):
        run(monkeypatch, "distil_student", *distil, 4, "--dataset", renamed)
    run(monkeypatch, "distil_student", *distil, 3, "--dataset", renamed)
    other = copy_of(tmp_path / "teacher", tmp_path / "other")
    trained = json.loads((other / "training.json").read_text())
    trained["data"]["split_seed"] = 4
    (other / "training.json").write_text(json.dumps(trained))
    with pytest.raises(
        DatasetError, match=r"Teachers must be trained with the same .* --split_seed 3 \(.*--split_seed 4 \("
    ):
        run(monkeypatch, "distil_student", *arguments, "--teacher", tmp_path / "teacher", other, "--split_seed", 3)

    def evaluated(split):
        models = [f"{name}={tmp_path / name}" for name in ("teacher", "student")]
        where = {"dataset": str(renamed), "output": str(tmp_path / "out"), "split": split, "bootstrap_draws": 40}
        return [row.trained_on for row in run_evaluation(EvaluationArguments(models=models, **where)).rows]

    record = json.loads((tmp_path / "student" / "training.json").read_text())
    ours, theirs = (
        json.loads((tmp_path / name / "training_images.json").read_text()) for name in ("student", "teacher")
    )
    assert (ours["teachers"], theirs["teachers"], ours["complete"]) == (theirs["sets"], [], True)
    # No thresholds: the validation rows are evaluated, or among those that are.
    assert evaluated("validation") == [({"evaluated": 0},)] * 2
    assert evaluated("train") == [({"evaluated": record["train"]["rows"]},)] * 2


def test_a_student_of_another_fold_or_draw_than_its_teacher_is_refused(made, teacher, monkeypatch, tmp_path):
    """A teacher that was trained on the student's held-out fold would tell it the answers."""
    args = EvaluationArguments(dataset=str(made / "dataset"), models=[], output="", split="fold", folds=2, fold=0)
    folded = copy_of(teacher, tmp_path / "folded")
    trained = json.loads((folded / "training.json").read_text())
    options = {"dataset": "renamed", "folds": 2, "fold": 0}
    held_in = EvaluationData.open(args, []).splits["train"]
    (folded / "training.json").write_text(json.dumps(trained | {"data": trained["data"] | options}))
    TrainingImages.of_run(map(image_digest, held_in["image"])).save(folded)
    arguments = [*student_arguments(made, tmp_path / "student"), "--teacher", folded, "--folds", 2, "--fold"]
    with pytest.raises(DatasetError, match=r"the teacher .*with --fold 0; got --fold 1\. Add --fold 0"):
        run(monkeypatch, "distil_student", *arguments, 1)
