"""What a saved folder holds and what may leave it; the upload itself is tested in tests/hub."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from saved_models import save_with_card

from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification, MLCAKImageProcessor
from mlcak_hf.deployment.model_files import model_files
from mlcak_hf.deployment.publish import push_to_hub
from mlcak_hf.errors import DeploymentError, MLCAKError
from mlcak_hf.trust.operating_points import OperatingPoints, PointTargets

BACKBONE = {"model_type": "vit", "image_size": 28, "patch_size": 4, "num_channels": 1, "hidden_size": 16}
BACKBONE |= {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = MLCAKForCXRClassification(MLCAKConfig(backbone_config=BACKBONE))
    processor = MLCAKImageProcessor(size={"height": 28, "width": 28})
    return save_with_card(model, processor, tmp_path / "student-28")


def test_a_saved_folder_is_complete(folder: Path) -> None:
    files = model_files(folder)
    assert set(files) == {path.name for path in folder.iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "modeling_mlcak.py"} <= set(
        files
    )
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModelForImageClassification"] == "modeling_mlcak.MLCAKForCXRClassification"
    assert "# student-28" in (folder / "README.md").read_text()
    assert "Not measured." in (folder / "README.md").read_text()


def test_only_model_files_may_leave(folder: Path) -> None:
    before = model_files(folder)
    for name in (
        "train.parquet",
        "x.dicom",
        "predictions.csv",
        "heatmap.png",
        "training_args.bin",
        "notes.md",
        "training.json",
        "training_images.json",
        "key.py",
    ):
        (folder / name).write_bytes(b"x")
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-3" / "model.safetensors").write_bytes(b"x")
    assert model_files(folder) == before
    (folder / "LICENSE").write_text("Apache-2.0")
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"x")
    (folder / "operating_points.json").write_text("{}")
    added = {"LICENSE", "model-00001-of-00002.safetensors", "operating_points.json"}
    assert set(model_files(folder)) - set(before) == added


def test_operating_points_of_other_weights_do_not_leave(folder: Path) -> None:
    OperatingPoints("other weights", "d", "validation", 9, PointTargets(), {}).save(folder)
    with pytest.raises(MLCAKError, match="made for others"):
        push_to_hub(folder, "owner/name")


@pytest.mark.parametrize(
    "name", ["README.md", "config.json", "model.safetensors", "modeling_mlcak.py", "configuration_mlcak.py"]
)
def test_an_incomplete_folder_is_refused_before_anything_is_sent(folder: Path, name: str) -> None:
    (folder / name).unlink()
    # HF_HUB_OFFLINE would make any request fail in another way.
    with pytest.raises(DeploymentError, match=name):
        push_to_hub(folder, "lab/student")


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match="nowhere"):
        push_to_hub(tmp_path / "nowhere", "lab/student")


def test_code_that_the_code_imports_is_needed_too(folder: Path) -> None:
    """Whatever files the model's code is split into, each must be there."""
    for code in folder.glob("*_mlcak.py"):
        content = code.read_bytes()
        code.unlink()
        with pytest.raises(DeploymentError, match=code.name):
            model_files(folder)
        code.write_bytes(content)


@pytest.mark.slow
def test_a_local_folder_runs_where_the_package_is_absent(folder: Path, tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['mlcak_hf'] = None\n"
        "from transformers import pipeline\n"
        "import numpy as np; from PIL import Image\n"
        f"classify = pipeline('image-classification', model={str(folder)!r}, trust_remote_code=True)\n"
        "print(sorted(row['label'] for row in classify(Image.fromarray(np.zeros((40, 30), np.uint8)))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['Abnormal', 'Normal']"
