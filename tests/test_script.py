"""A recipe, and the command line that overrides it."""

import os
import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from mlcak_hf.errors import RecipeError
from mlcak_hf.script import parse_recipe
from mlcak_hf.shipped import hub_configs_dir, resolve_model, resolve_recipe


@dataclass
class Choices:
    """Stand-in for a script's arguments."""

    model: str = field(default="tiny")
    epochs: int = field(default=3)
    rate: float = field(default=1e-3)
    shuffle: bool = field(default=True)
    findings: list[str] | None = field(default=None)
    extra: dict | None = field(default=None, metadata={"help": "-"})


@pytest.fixture
def recipe(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_a_recipe_gives_defaults_and_the_command_line_wins(recipe):
    path = recipe("epochs: 5\nrate: 1e-4\nshuffle: false\nfindings: [Edema, Pleural effusion]\nmodel: null\n")
    (choices,) = parse_recipe([Choices], ["--config", path])
    assert choices == Choices("tiny", 5, 1e-4, False, ["Edema", "Pleural effusion"])
    (choices,) = parse_recipe([Choices], ["--epochs", "7", f"--config={path}", "--findings", "Nodule/Mass"])
    assert (choices.epochs, choices.findings, choices.rate) == (7, ["Nodule/Mass"], 1e-4)


def test_without_a_recipe_there_is_the_command_line():
    assert parse_recipe([Choices], []) == (Choices(),)


def test_an_empty_recipe_changes_nothing(recipe):
    assert parse_recipe([Choices], ["--config", recipe("# nothing yet\n")]) == (Choices(),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 5\n", r"recipe\.yaml has the unknown key 'epoch'\. Did you mean 'epochs'\?"),
        ("colour: red\n", r"unknown key 'colour'\.$"),
        ("epochs: five\n", r"recipe\.yaml.*--epochs.*'five'"),
        ("- epochs\n", "must be a mapping"),
        ("epochs: [\n", "cannot be read as YAML"),
        ("findings: []\n", "empty list for 'findings'"),
        ("epochs: 5\nrate: 1e-4\nepochs: 6\n", r"recipe\.yaml.*the key 'epochs' is repeated in line 3"),
        ("extra: {beta: 1, beta: 2}\n", "the key 'beta' is repeated"),
        ("? [1]\n: 5\n", "cannot be read as YAML"),
    ],
)
def test_a_recipe_that_cannot_be_used_names_file_and_key(recipe, text, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe([Choices], ["--config", recipe(text)])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epoch", "5"], r"command line: --epoch 5\. Did you mean 'epochs'\?"),
        (["--epochs", "five"], "command line.*'five'"),
        (["--config"], "--config: expected one argument"),
        (["--config", "small-techer"], r"no recipe 'small-techer'.*Did you mean 'small-teacher'\?"),
    ],
)
def test_a_command_line_that_cannot_be_used_is_named(argv, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe([Choices], argv)


def test_names_resolve_to_what_is_shipped(tmp_path):
    assert resolve_recipe("small-teacher") == hub_configs_dir() / "recipes" / "small-teacher.yaml"
    assert resolve_model("student-tiny-28") == str(hub_configs_dir() / "models" / "student-tiny-28")
    assert resolve_model(str(tmp_path)) == str(tmp_path)
    assert resolve_model("someone/some-model") == "someone/some-model"
    with pytest.raises(RecipeError, match=r"no model 'student-tiny-29'.*Did you mean 'student-tiny-28'\?"):
        resolve_model("student-tiny-29")


SCRIPT = """
import os, time
from mlcak_hf.errors import RecipeError
from mlcak_hf.script import run_script

def main():
    if os.environ["LOCAL_RANK"] in {ranks}:
        raise RecipeError("gamma must be at least 0.")
    time.sleep(60)

run_script(main)
"""


@pytest.mark.slow
@pytest.mark.parametrize("ranks", ["01", "1"])
def test_an_error_of_several_processes_is_printed_once_above_the_launchers_report(tmp_path, ranks):
    (tmp_path / "script.py").write_text(SCRIPT.format(ranks=repr(ranks)))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--main_process_port", "0", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run([*command, tmp_path / "script.py"], env=environment, capture_output=True, text=True)
    assert ran.returncode == 1
    said, _, report = ran.stderr.partition("Traceback")
    assert [line for line in said.splitlines() if "gamma" in line] == ["error: gamma must be at least 0."]
    assert "gamma" not in report
    assert "ChildFailedError" in report, "the guide says that the launcher adds it"
