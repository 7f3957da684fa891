"""Every trained model that ships with the package: complete, small, and with its own numbers."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from mlcak_hf import RadiographPredictor
from mlcak_hf.deployment.publish import model_files, push_to_hub
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
def test_a_push_by_name_is_complete(name, monkeypatch):
    """The package holds the code once; the folder that is uploaded has a copy."""
    uploaded = {}

    class Api:
        def create_repo(self, *args, **kwargs):
            return None

    def upload(folder, repo, revision, message, allow_patterns):
        uploaded.update({file: (folder / file).read_bytes() for file in model_files(folder)})
        assert sorted(uploaded) == allow_patterns

    monkeypatch.setattr("mlcak_hf.deployment.publish.HfApi", Api)
    monkeypatch.setattr("mlcak_hf.deployment.publish._upload", upload)
    push_to_hub(name, "owner/name")
    assert {"modeling_mlcak.py", "convolutional_trunk_mlcak.py", "operating_points.json", "self_check.json"} <= set(
        uploaded
    )
