"""Every trained model that ships with the package: complete, small, and with its own numbers."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from mlcak_hf import RadiographPredictor
from mlcak_hf.deployment.model_files import model_files
from mlcak_hf.deployment.repositories import named_repositories, write_repositories
from mlcak_hf.evaluation.evidence.self_check import SelfCheck
from mlcak_hf.shipped import checkpoint_names, resolve_checkpoint
from mlcak_hf.trust.operating_points import OperatingPoints
from mlcak_hf.trust.reference import Reference
from mlcak_hf.weights import weights_digest

checkpoint = pytest.mark.parametrize("name", checkpoint_names())


@checkpoint
def test_weights_are_small_and_the_card_thresholds_and_reference_belong_to_them(name):
    folder = Path(resolve_checkpoint(name))
    assert (folder / "model.safetensors").stat().st_size <= 5_000_000
    assert ModelCard.load(folder / "README.md").data.to_dict()["weights_sha256"] == weights_digest(name)
    # Both refuse other weights.
    assert OperatingPoints.load(folder) is not None
    assert Reference.load(folder) is not None
    assert not (folder / "training_images.json").exists(), "hashes of training images are never published"


@checkpoint
def test_the_model_gives_the_probabilities_of_its_self_check(name):
    predictor = RadiographPredictor.from_pretrained(name)
    assert predictor.model_name == name
    assert str(next(predictor.model.parameters()).dtype) == "torch.float32"
    recorded = SelfCheck.load(resolve_checkpoint(name))
    assert recorded.differences(SelfCheck.of_model(predictor.model, predictor.processor, seed=recorded.seed)) == []


@checkpoint
def test_a_push_by_name_is_complete(name, tmp_path):
    """The package holds the code once; the folder that is uploaded has a copy."""
    (model,) = repositories = named_repositories("owner/name", [], tmp_path / "pushed")
    write_repositories(name, repositories, tmp_path / "pushed")
    files = {path.name for path in model.folder.iterdir()}
    assert files == set(model_files(model.folder))
    assert {"modeling_mlcak.py", "convolutional_trunk_mlcak.py", "operating_points.json", "self_check.json"} <= files
