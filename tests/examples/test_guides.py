"""README and guides: short, with links, paths, commands and options that exist, and a first snippet that runs."""

import importlib.util
import re
import shlex
import subprocess
import sys
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path

import pytest
import typer

from mlcak_hf.cli.main import app
from mlcak_hf.data.training_data import DataArguments
from mlcak_hf.data.views import ViewParameters
from mlcak_hf.shipped import hub_configs_dir
from mlcak_hf.training.arguments import MLCAKTrainingArguments
from mlcak_hf.training.setup import StudentArguments

if sys.version_info >= (3, 11):
    import tomllib

ROOT = Path(__file__).resolve().parents[2]
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("examples/*/README.md"))]
COMMANDS = typer.main.get_command(app).commands
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
guide = pytest.mark.parametrize("guide", GUIDES, ids=lambda path: str(path.relative_to(ROOT)))


def shell_lines(text: str) -> list[list[str]]:
    """Every command of the text's bash blocks, as words, without comments."""
    blocks = [body for language, body in BLOCK.findall(text) if language == "bash"]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@cache
def script_options(script: Path) -> set[str]:
    """Names of the options of a training script, or those that its text defines."""
    names = set(re.findall(r'"--([a-z_-]+)"', script.read_text(encoding="utf-8"))) | {"config"}
    spec = importlib.util.spec_from_file_location(f"guide_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and is_dataclass(kind)]
    return names | {entry.name for kind in kinds for entry in fields(kind)}


def test_readme_is_short_and_every_task_has_a_guide():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    tasks = {folder for folder in (ROOT / "examples").iterdir() if folder.is_dir() and any(folder.glob("[!_]*"))}
    assert {path.parent for path in GUIDES} >= tasks


@guide
def test_every_link_leads_to_a_file(guide):
    for target in re.findall(r"\]\((?!https?://|#)([^)\s]+)\)", guide.read_text(encoding="utf-8")):
        assert (guide.parent / target).exists(), target


@guide
def test_every_path_of_the_repository_exists(guide):
    text = guide.read_text(encoding="utf-8")
    for path in re.findall(r"(?<![\w/])(?:examples|src|tests|hub_configs)/[\w./-]*\w", text):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"`(\w+\.(?:py|sh))`", text):
        assert list(ROOT.glob(f"examples/*/{name}")) or list(ROOT.glob(f"src/mlcak_hf/*/{name}")), name


@guide
def test_every_mlcak_command_and_option_exists(guide):
    text = guide.read_text(encoding="utf-8")
    inline = [shlex.split(code) for code in re.findall(r"`(mlcak [a-z]+[^`]*)`", text)]
    for words in [*shell_lines(text), *inline]:
        if words[0] == "mlcak":
            known = {option for parameter in COMMANDS[words[1]].params for option in parameter.opts}
            if words[1] == "compare":  # its options are those of the script
                known |= {f"--{name}" for name in script_options(ROOT / "examples/evaluation/evaluate_models.py")}
            assert {word for word in words if word.startswith("--")} <= known | {"--help"}, words


@guide
def test_every_option_recipe_and_size_of_a_script_exists(guide):
    for words in shell_lines(guide.read_text(encoding="utf-8")):
        scripts = [
            place for place, word in enumerate(words) if re.fullmatch(r"(?:examples/(?!benchmarks)|tests/).*\.py", word)
        ]
        if not scripts:
            continue
        given = words[scripts[0] + 1 :]
        names = {word[2:] for word in given if word.startswith("--")}
        assert names <= script_options(ROOT / words[scripts[0]]), words
        for option, folder, suffix in (("--config", "recipes", ".yaml"), ("--model", "models", "")):
            if option in given:
                assert (hub_configs_dir() / folder / f"{given[given.index(option) + 1]}{suffix}").exists()


@guide
def test_every_option_in_a_table_or_sentence_exists(guide):
    known = {option for command in COMMANDS.values() for parameter in command.params for option in parameter.opts}
    kinds = [StudentArguments, DataArguments, ViewParameters, MLCAKTrainingArguments]
    known |= {f"--{entry.name}" for kind in kinds for entry in fields(kind)}
    for script in (
        "evaluation/evaluate_models.py",
        "evaluation/study.py",
        "explanation/measure_explanations.py",
        "archive/predict_on_ray.py",
    ):
        known |= {f"--{name}" for name in script_options(ROOT / "examples" / script)}
    known |= {f"--{name}" for name in script_options(ROOT / "tests" / "mutate.py")}
    # of accelerate launch and of pip
    known |= {"--num_machines", "--machine_rank", "--main_process_ip", "--no-deps"}
    prose = BLOCK.sub("", guide.read_text(encoding="utf-8"))
    if "benchmarks" not in str(guide.parent):
        assert set(re.findall(r"(?<=[`\s])--[a-z][a-z0-9_-]*", prose)) <= known


@pytest.fixture(scope="module")
def with_phantoms(tmp_path_factory):
    """A folder in which README's first shell commands have run."""
    place = tmp_path_factory.mktemp("readme")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [words for words in shell_lines(text[text.index("## First steps") :]) if words[0] == "mlcak"][:2]
    assert [words[1] for words in commands] == ["phantom", "predict"]
    for words in commands:
        subprocess.run([sys.executable, "-m", "mlcak_hf", *words[1:]], cwd=place, timeout=200, check=True)
    return place


@pytest.mark.slow
def test_the_readmes_first_snippet_prints_what_stands_below_it(with_phantoms):
    code, printed = [body for language, body in BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
                     if language in {"python", "text"}][:2]  # fmt: skip
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=True, cwd=with_phantoms
    )
    assert ran.stdout == printed


@pytest.mark.slow
def test_the_readmes_training_snippet_runs_as_printed(with_phantoms):
    blocks = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    first, *others = [body for language, body in blocks if language == "python"]
    (training,) = [body for body in others if "Trainer(" in body]
    code = [sys.executable, "-c", first + training]
    ran = subprocess.run(code, capture_output=True, text=True, timeout=200, check=False, cwd=with_phantoms)
    assert ran.returncode == 0, ran.stderr
    assert float(ran.stdout.split()[-1]) > 0


@guide
def test_every_name_imported_in_a_snippet_exists(guide):
    for language, code in BLOCK.findall(guide.read_text(encoding="utf-8")):
        for module, names in re.findall(r"^from (mlcak_hf[\w.]*) import ([\w, ]+)$", code, re.MULTILINE):
            loaded = importlib.import_module(module)
            assert language == "python"
            assert all(hasattr(loaded, name.strip()) for name in names.split(",")), names


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is new in Python 3.11")
def test_the_wheel_holds_every_task_but_the_benchmarks():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = set(settings["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"])
    tasks = {f"examples/{path.parent.name}" for path in GUIDES if path.parent.parent.name == "examples"}
    assert included == (tasks | {"hub_configs"}) - {"examples/benchmarks"}
