"""Importing the package is cheap, and transformers knows the model whatever is imported first."""

import subprocess
import sys

import pytest
from tiny_models import tiny_model

import mlcak_hf
from mlcak_hf import MLCAKImageProcessor

SHOW = """
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification
config = AutoConfig.for_model("mlcak")
print(*(type(auto.from_config(config)).__name__ for auto in (AutoModel, AutoModelForImageClassification)))
print(type(config).__module__, type(config)._auto_class)
"""


def python(code: str, *arguments: object) -> str:
    """Run code in a new interpreter and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = python("import sys, mlcak_hf; print(*sys.modules)").split()
    assert not {"torch", "transformers", "numpy", "datasets", "pydicom"} & set(loaded)


def test_workers_that_read_radiographs_do_not_import_torch() -> None:
    """It takes ten seconds of processor time in each of them, more than reading a hundred files."""
    loaded = python("import sys, mlcak_hf.prediction.reading; print(*sys.modules)").split()
    assert "pydicom" in loaded
    assert not {"torch", "transformers", "datasets"} & set(loaded)


def test_public_names_are_listed_and_found() -> None:
    assert set(mlcak_hf.__all__) <= set(dir(mlcak_hf))
    assert all(getattr(mlcak_hf, name) is not None for name in mlcak_hf.__all__)
    with pytest.raises(AttributeError, match="no attribute 'MLCAKTokenizer'"):
        mlcak_hf.MLCAKTokenizer  # noqa: B018


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "import mlcak_hf",
        "import transformers; import mlcak_hf",
        # Hub files that import transformers themselves.
        "import mlcak_hf.attention_mlcak",
        "from mlcak_hf import MLCAKConfig",
    ],
)
def test_the_auto_classes_know_the_model_in_any_import_order(first: str) -> None:
    assert python(first + "\n" + SHOW) .split() == [
        "MLCAKModel", "MLCAKForCXRClassification", "mlcak_hf.configuration_mlcak", "AutoConfig",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_pipeline_and_a_spawned_worker_know_the_model(tmp_path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    size = model.config.image_size
    MLCAKImageProcessor(size={"height": size, "width": size}).save_pretrained(tmp_path)
    code = """
import multiprocessing, sys
import mlcak_hf
from PIL import Image
from transformers import pipeline

def architecture(model):
    from transformers import AutoModelForImageClassification
    return type(AutoModelForImageClassification.from_config(model.config)).__name__

if __name__ == "__main__":
    classify = pipeline("image-classification", model=sys.argv[1])
    print(*sorted(row["label"] for row in classify(Image.new("L", (32, 32)))))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(architecture, [classify.model]))
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == ["Abnormal", "Normal", "MLCAKForCXRClassification"], done.stderr


@pytest.mark.parametrize("arguments", ["--help", "prepare --help", "predict"])
def test_help_and_usage_errors_wait_for_nothing_heavy(arguments: str) -> None:
    """torch and transformers alone take seconds of processor time."""
    code = """
import sys
from mlcak_hf.cli.main import app
try:
    app(sys.argv[1:])
except SystemExit:
    print(*sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code, *arguments.split()], capture_output=True, text=True, check=False)
    assert "Usage" in done.stdout + done.stderr
    loaded = set(done.stderr.split())
    assert "typer" in loaded
    assert not {"torch", "transformers", "numpy", "datasets", "pydicom", "rich"} & loaded


def test_the_version_is_printed_and_the_package_runs_as_a_module() -> None:
    assert python("import runpy; runpy.run_module('mlcak_hf', run_name='__main__')", "--version") == "mlcak 0.1.0"
