"""An environment without torch and transformers predicts what PyTorch predicts, from an exported folder."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlcak_hf import RadiographPredictor, find_radiographs
from mlcak_hf.deployment.export.onnx_folder import export_onnx
from mlcak_hf.phantoms.writer import write_phantoms

if os.environ.get("MLCAK_TEST_ONNX") != "1":
    pytest.skip("NO ENVIRONMENT WITHOUT TORCH IS TESTED: run `make test-onnx`", allow_module_level=True)

pytestmark = pytest.mark.timeout(1200)  # packages are downloaded

ROOT = Path(__file__).resolve().parents[2]
MODEL = "pneumonia-28"


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run([*map(str, command)], cwd=cwd, env=clean, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    export_onnx(MODEL, folder)
    return folder


@pytest.fixture(scope="module")
def python(exported: Path, tmp_path_factory) -> Path:
    """The interpreter of an environment with the packages that the exported folder names, and nothing else."""
    place = tmp_path_factory.mktemp("bare")
    assert run(sys.executable, "-m", "venv", place, cwd=place).returncode == 0
    install = [place / "bin" / "python", "-m", "pip", "install", "-q"]
    done = run(*install, "-c", ROOT / "constraints.txt", "-r", exported / "requirements.txt", cwd=place)
    assert done.returncode == 0, done.stderr
    assert run(place / "bin" / "python", "-c", "import torch", cwd=place).returncode == 1
    return place / "bin" / "python"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    """Phantoms as DICOM, and a file that cannot be read."""
    folder = tmp_path_factory.mktemp("radiographs")
    write_phantoms(folder / "phantoms", num_train=1, num_test=4, size_px=256)
    (folder / "phantoms" / "test" / "broken.png").write_text("not an image")
    return find_radiographs(folder / "phantoms" / "test")


def test_the_program_of_the_folder_stands_alone(python, exported, files, tmp_path):
    shutil.copytree(exported, tmp_path / "carried")
    done = run(python, tmp_path / "carried" / "predict.py", *files, cwd=tmp_path)
    assert done.returncode == 1, done.stderr  # one file is broken
    printed = [float(value) for value in re.findall(r"^  pneumonia: ([\d.]+)", done.stdout, re.MULTILINE)]
    predicted = RadiographPredictor.from_pretrained(MODEL).predict(files)
    expected = [row.probabilities["pneumonia"] for row in predicted if row.probabilities]
    assert printed == pytest.approx(expected, abs=1e-4)
    assert len(printed) == len(files) - 1
    assert "not read: The file must be DICOM, PNG or JPEG" in done.stdout
    assert re.findall(r"decision: (\w+)", done.stdout) == [
        row.decisions["global/pneumonia"].decision or "none" for row in predicted if row.probabilities
    ]
    unlike = [row for row in predicted if "unlike the training images" in str(row.warning)]
    assert done.stdout.count("unlike the training images") == len(unlike)


def test_the_command_gives_the_same_table(python, exported, files, tmp_path):
    built = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    done = run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    tables = {}
    for name, (interpreter, model) in {"torch": (sys.executable, MODEL), "onnx": (python, exported)}.items():
        command = [interpreter, "-m", "mlcak_hf", "predict", model, *files, "--output", tmp_path / f"{name}.csv"]
        done = run(*command, cwd=tmp_path)
        assert done.returncode == 1, done.stderr
        assert f"{len(files)} found: {len(files) - 1} predicted, 0 refused, 1 unreadable." in done.stderr
        with (tmp_path / f"{name}.csv").open(newline="") as stream:
            tables[name] = list(csv.DictReader(stream))
    for ours, theirs in zip(tables["onnx"], tables["torch"], strict=True):
        assert ours.keys() == theirs.keys()
        for column, text in ours.items():
            try:
                assert float(text) == pytest.approx(float(theirs[column]), abs=1e-4)
            except ValueError:
                assert text == theirs[column]


def test_a_model_for_pytorch_is_refused_with_what_to_do(python, tmp_path):
    done = run(python, "-m", "mlcak_hf", "predict", MODEL, ROOT, cwd=tmp_path)
    assert done.returncode == 2
    assert "needs torch and transformers, which are not installed" in " ".join(done.stderr.split())


def test_the_environment_takes_less_than_250_mb(python):
    (packages,) = (python.parents[1] / "lib").glob("*/site-packages")
    own = [entry for entry in packages.iterdir() if not entry.name.startswith(("pip", "setuptools"))]
    files = [file for entry in own for file in ([entry] if entry.is_file() else entry.rglob("*")) if file.is_file()]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    print(f"installed: {megabytes:.0f} MB")
    assert megabytes < 250
