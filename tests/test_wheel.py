"""The installed wheel works without the checkout: it draws, prepares, trains and predicts."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, cwd: Path, timeout_s: int = 900, **environment: str) -> str:
    """Run a command away from the checkout and return what it printed; its whole output is shown when it fails."""
    clean = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**clean, **environment},
        timeout=timeout_s,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of a new environment with the wheel, borrowed dependencies and no trace of the checkout."""
    environment = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", environment, cwd=environment)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel, cwd=environment)
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=environment).strip()
    # A path named in a .pth file is searched, but .pth files in it are not read: the editable install stays out.
    (Path(purelib) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wheel_alone_draws_prepares_trains_and_predicts(installed: Path, tmp_path: Path) -> None:
    environment = {
        "PATH": f"{installed}:{os.environ['PATH']}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    where = run(installed / "python", "-c", "import mlcak_hf; print(mlcak_hf.__file__)", cwd=tmp_path, **environment)
    assert str(ROOT) not in where
    run(installed / "mlcak", "phantom", "phantoms", "--train", "24", "--test", "8", cwd=tmp_path, **environment)
    run(installed / "mlcak", "prepare", "phantoms", "dataset", cwd=tmp_path, **environment)
    run(
        # The script `accelerate` is in the environment of the borrowed dependencies.
        *(installed / "python", "-m", "accelerate.commands.launch"),
        *("--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
        *(
            "-m",
            "mlcak_hf.examples.distillation.train_teacher",
            "--config",
            "small-student",
            *("--alpha", "0", "--beta", "0", "--gamma", "0"),
        ),
        *("--dataset", "dataset", "--output_dir", "model", "--max_steps", "2", "--eval_strategy", "no"),
        *("--save_strategy", "no", "--load_best_model_at_end", "false"),
        cwd=tmp_path,
        **environment,
    )
    run(installed / "mlcak", "predict", "model", "phantoms/test", "--format", "csv", "--output", "out.csv",
        cwd=tmp_path, **environment)  # fmt: skip
    header, *rows = (tmp_path / "out.csv").read_text().strip().splitlines()
    assert len(rows) == 8
    assert "Abnormal" in header


# Nothing in them works without the extra `serve`; the command imports them and names the extra if that fails.
OF_AN_EXTRA = {"dicom_door.py", "http_door.py"}


def test_every_import_is_a_declared_dependency() -> None:
    normal, extras = set(), set()
    for requirement in requires("mlcak-hf") or []:
        name = re.sub(r"[-_.]+", "-", re.split(r"[ <>=!~;\[]", requirement)[0]).lower()
        (extras if "extra ==" in requirement else normal).add(name)
    distributions = packages_distributions()
    # Benchmarks are not in the wheel.
    examples = [path for path in (ROOT / "examples").rglob("*.py") if path.parent.name != "benchmarks"]
    for path in [*(ROOT / "src").rglob("*.py"), *examples]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            # What belongs to an extra is imported where it is used.
            declared = normal if node in tree.body and path.name not in OF_AN_EXTRA else normal | extras
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            else:
                continue
            for top in {module.split(".")[0] for module in modules} - set(sys.stdlib_module_names) - {"mlcak_hf"}:
                names = {re.sub(r"[-_.]+", "-", name).lower() for name in distributions.get(top, [top])}
                assert names & declared, (
                    f"{path.relative_to(ROOT)} imports {top}, which pyproject.toml does not declare"
                )
