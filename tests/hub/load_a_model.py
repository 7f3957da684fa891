"""Run in a process of its own: load what publish_a_model.py pushed, with the package or without, and compare.

Usage: python load_a_model.py FOLDER REPO_ID installed|absent, with HF_ENDPOINT set.
"""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

folder, repo_id, absent = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "absent"
trust = {"trust_remote_code": True} if absent else {}
if absent:
    # None makes an import fail as if nothing were installed; besides the package, all that only the package needs.
    for name in (
        "mlcak_hf",
        "pydicom",
        "datasets",
        "evaluate",
        "rich",
        "typer",
        "matplotlib",
        "sklearn",
        "torchvision",
    ):
        sys.modules[name] = None
else:
    importlib.import_module("mlcak_hf")  # registers the model

versions = json.loads((folder / "versions.json").read_text())
radiograph = Image.open(folder / "radiograph.png")

if absent:
    for auto_class in (AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification):
        with pytest.raises(ValueError, match="trust_remote_code=True"):
            auto_class.from_pretrained(repo_id)

for name, revision in [("second", "main"), ("second", "trial"), ("first", versions["first"])]:
    expected = np.load(folder / f"{name}.npz")
    config = AutoConfig.from_pretrained(repo_id, revision=revision, **trust)
    processor = AutoImageProcessor.from_pretrained(repo_id, revision=revision, **trust)
    model = AutoModelForImageClassification.from_pretrained(repo_id, revision=revision, **trust)
    home = "transformers_modules" if absent else "mlcak_hf"
    assert {type(part).__module__.split(".")[0] for part in (config, processor, model)} == {home}
    assert model.config.local_labels == config.local_labels
    pixel_values = processor(radiograph, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output = model(pixel_values, output_attentions=True)
    assert np.array_equal(pixel_values.numpy(), expected["pixel_values"])
    assert np.array_equal(output.attentions[1].numpy(), expected["attention"])
    for key in ("logits", "local_logits", "mlcak"):
        assert np.array_equal(output[key].numpy(), expected[key]), f"{key} of {revision}"

    features = AutoModel.from_pretrained(repo_id, revision=revision, **trust)
    assert type(features).__module__.split(".")[0] == home
    with torch.no_grad():
        class_token = features(pixel_values, output_attentions=True).pooler_output
    assert np.array_equal(model.classifier(class_token).detach().numpy(), expected["logits"])
    extractor = pipeline("image-feature-extraction", model=repo_id, revision=revision, pool=True, **trust)
    assert np.allclose(extractor(str(folder / "radiograph.png")), class_token, atol=1e-6)

    classifier = pipeline("image-classification", model=repo_id, revision=revision, **trust)
    scores = {row["label"]: row["score"] for row in classifier(str(folder / "radiograph.png"))}
    softmax = torch.from_numpy(expected["logits"])[0].softmax(-1)
    assert np.allclose([scores["Normal"], scores["Abnormal"]], softmax, atol=1e-6), scores

if absent:
    assert not [name for name in sys.modules if name.startswith("mlcak_hf.")]
else:
    from mlcak_hf.prediction.predictor import RadiographPredictor

    predictor = RadiographPredictor.from_pretrained(repo_id, device="cpu")
    (prediction,) = predictor.predict([folder / "radiograph.png"])
    assert predictor.safeguards.reference.n_held_out == 20
    assert prediction.decisions["global/Abnormal"].threshold == 0.25
    expected = torch.from_numpy(np.load(folder / "second.npz")["logits"])[0].softmax(-1)
    assert np.allclose(list(prediction.probabilities.values()), expected, atol=1e-6)
print("all equal")
