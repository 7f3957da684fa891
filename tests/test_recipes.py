"""Every recipe and model size that ships with the package."""

import pytest
import torch
import yaml

from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification, MLCAKImageProcessor
from mlcak_hf.data.training_data import DataArguments
from mlcak_hf.data.views import ViewParameters
from mlcak_hf.script import parse_recipe
from mlcak_hf.shipped import checkpoint_names, hub_configs_dir, resolve_model, resolve_recipe
from mlcak_hf.training.arguments import MLCAKTrainingArguments
from mlcak_hf.training.models import ModelArguments

MODELS = sorted(folder.name for folder in (hub_configs_dir() / "models").iterdir())
RECIPES = sorted(path.stem for path in (hub_configs_dir() / "recipes").glob("*.yaml"))
ARGUMENTS = [ModelArguments, DataArguments, ViewParameters, MLCAKTrainingArguments]


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_parses_and_names_a_shipped_model(name, tmp_path):
    model_args, *_, args = parse_recipe(
        ARGUMENTS, ["--config", name, "--dataset", "somewhere", "--output_dir", str(tmp_path)]
    )
    assert model_args.model in [*MODELS, *checkpoint_names()]
    assert args.metric_for_best_model == ("auroc_global_shifted" if args.eval_shifts else "auroc_global")
    assert args.dataloader_num_workers <= 2, "recipes suit a machine with two cores"


@pytest.mark.parametrize("name", [name for name in RECIPES if "student" in name])
def test_zero_weights_turn_a_student_into_a_plain_one(name, tmp_path):
    options = ["--config", name, "--dataset", "somewhere", "--output_dir", str(tmp_path)]
    *_, taught = parse_recipe(ARGUMENTS, options)
    *_, plain = parse_recipe(ARGUMENTS, [*options, "--alpha", "0", "--beta", "0", "--gamma", "0"])
    assert taught.distils
    assert not plain.distils


def test_every_student_size_is_named_in_the_students_recipe():
    text = resolve_recipe("student").read_text(encoding="utf-8")
    assert {"student-vit-ti4-56", "student-vit-ti8-112", yaml.safe_load(text)["model"]} <= set(MODELS)
    assert "student-vit-ti4-56" in text
    assert "student-vit-ti8-112" in text


@pytest.mark.parametrize("name", MODELS)
def test_a_shipped_model_size_runs_and_fits_its_processor(name):
    config = MLCAKConfig.from_pretrained(resolve_model(name))
    processor = MLCAKImageProcessor.from_pretrained(resolve_model(name))
    assert processor.size == {"height": config.image_size, "width": config.image_size}
    assert name.endswith(f"-{config.image_size}")
    assert len(processor.image_mean) == config.num_channels == 1
    with torch.device("meta"):
        model = MLCAKForCXRClassification(config).eval()
        pixels = torch.empty(2, 1, config.image_size, config.image_size)
        output = model(pixels, output_attentions=config.has_attention)
    assert output.logits.shape == (2, 2)
    assert output.local_logits.shape == (2, 22)
    assert len(output.attentions or ()) == (config.backbone_config.num_hidden_layers if config.has_attention else 0)


def test_model_sizes_match_their_names():
    def millions(name: str) -> float:
        with torch.device("meta"):
            model = MLCAKForCXRClassification(MLCAKConfig.from_pretrained(resolve_model(name)))
        return model.num_parameters() / 1e6

    assert 85 < millions("teacher-vit-b16-224") < 87
    assert 21 < millions("teacher-vit-s16-224") < 22.5
    assert 5 < millions("student-vit-ti4-28") < 6
    assert millions("student-tiny-28") < 0.5
    assert 2.2 < millions("student-linear-28") < 2.3  # under 5 MB in 16 bit
    assert 2.1 < millions("student-conv-28") < 2.2
    assert 2.1 < millions("teacher-conv-112") < 2.2
    assert 14 < millions("teacher-conv-224") < 15
    assert 2.7 < millions("teacher-resnet-112") < 2.8
    assert 0.38 < millions("student-regnet-28") < 0.39
