"""Recipes, the command line over them, and every recipe and model size that is shipped."""

from dataclasses import dataclass, field

import pytest
import torch
import yaml

from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification, MLCAKImageProcessor
from mlcak_hf.data.training_data import DataArguments
from mlcak_hf.data.views import ViewParameters
from mlcak_hf.errors import RecipeError
from mlcak_hf.script import parse_recipe
from mlcak_hf.shipped import hub_configs_dir, resolve_model, resolve_recipe
from mlcak_hf.training.arguments import MLCAKTrainingArguments
from mlcak_hf.training.setup import ModelArguments

MODELS = sorted(folder.name for folder in (hub_configs_dir() / "models").iterdir())
RECIPES = sorted(path.stem for path in (hub_configs_dir() / "recipes").glob("*.yaml"))


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
        ("epochs: 5\nrate: 1e-4\nepochs: 6\n", r"recipe\.yaml.*the key 'epochs' is there twice, again in line 3"),
        ("extra: {beta: 1, beta: 2}\n", "the key 'beta' is there twice"),
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
        (["--config"], "--config needs"),
        (["--config", "demo-techer"], r"no recipe 'demo-techer'.*Did you mean 'demo-teacher'\?"),
    ],
)
def test_a_command_line_that_cannot_be_used_is_named(argv, message):
    with pytest.raises(RecipeError, match=message):
        parse_recipe([Choices], argv)


def test_names_resolve_to_what_is_shipped(tmp_path):
    assert resolve_recipe("demo-teacher") == hub_configs_dir() / "recipes" / "demo-teacher.yaml"
    assert resolve_model("student-tiny-28") == str(hub_configs_dir() / "models" / "student-tiny-28")
    assert resolve_model(str(tmp_path)) == str(tmp_path)
    assert resolve_model("someone/some-model") == "someone/some-model"
    with pytest.raises(RecipeError, match=r"no model 'student-tiny-29'.*Did you mean 'student-tiny-28'\?"):
        resolve_model("student-tiny-29")


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_is_understood(name, tmp_path):
    values = yaml.safe_load(resolve_recipe(name).read_text(encoding="utf-8"))
    kinds = [ModelArguments, DataArguments, ViewParameters, MLCAKTrainingArguments]
    assert values["model"] in MODELS
    where = ["--dataset", "somewhere", "--output_dir", str(tmp_path)]
    *_, args = parse_recipe(kinds, ["--config", name, *where])
    assert args.distils is ("plain" not in name and "student" in name) or "teacher" in name
    assert args.metric_for_best_model == "auroc_global"


@pytest.mark.parametrize("name", [name for name in RECIPES if "plain" in name])
def test_a_plain_recipe_differs_in_the_teachers_losses_only(name):
    plain, full = (
        yaml.safe_load(resolve_recipe(recipe).read_text(encoding="utf-8"))
        for recipe in (name, name.replace("-plain", ""))
    )
    differing = {key for key in plain | full if plain.get(key) != full.get(key)}
    assert differing <= {
        "alpha",
        "beta",
        "gamma",
        "logit_loss",
        "temperature",
        "attention_loss",
        "attention_aggregation",
    }


@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_size_runs_and_fits_its_processor(name):
    config = MLCAKConfig.from_pretrained(resolve_model(name))
    processor = MLCAKImageProcessor.from_pretrained(resolve_model(name))
    assert processor.size == {"height": config.image_size, "width": config.image_size}
    assert name.endswith(f"-{config.image_size}")
    assert len(processor.image_mean) == config.num_channels == 1
    with torch.device("meta"):
        model = MLCAKForCXRClassification(config).eval()
        output = model(torch.empty(2, 1, config.image_size, config.image_size), output_attentions=True)
    assert output.logits.shape == (2, 2)
    assert output.local_logits.shape == (2, 22)
    assert len(output.attentions) == config.backbone_config.num_hidden_layers


def test_sizes_are_as_large_as_their_names_say():
    def millions(name: str) -> float:
        with torch.device("meta"):
            model = MLCAKForCXRClassification(MLCAKConfig.from_pretrained(resolve_model(name)))
        return model.num_parameters() / 1e6

    assert 85 < millions("teacher-vit-b16-224") < 87
    assert 21 < millions("teacher-vit-s16-224") < 22.5
    assert 5 < millions("student-vit-ti4-28") < 6
    assert millions("student-tiny-28") < 0.5
