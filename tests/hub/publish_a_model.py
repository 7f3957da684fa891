"""Run in a process of its own: save a model, push two versions of it, and keep what it answers.

Usage: python publish_a_model.py FOLDER REPO_ID, with HF_ENDPOINT set.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification, MLCAKImageProcessor
from mlcak_hf.deployment.model_card import card_for_folder
from mlcak_hf.deployment.publish import push_to_hub
from mlcak_hf.trust.operating_points import LabelPoints, OperatingPoint, OperatingPoints, PointTargets
from mlcak_hf.trust.reference import Reference
from mlcak_hf.weights import weights_digest

folder, repo_id = Path(sys.argv[1]), sys.argv[2]
torch.manual_seed(0)
backbone = {"model_type": "vit", "image_size": 28, "patch_size": 4, "num_channels": 1, "hidden_size": 24}
backbone |= {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
processor = MLCAKImageProcessor(size={"height": 28, "width": 28}, image_mean=[0.4], lowres=14)
radiograph = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70), dtype=np.uint8))
radiograph.save(folder / "radiograph.png")

versions = {}
for name, embedding in {"first": "linear", "second": "conv"}.items():
    model = MLCAKForCXRClassification(MLCAKConfig(backbone_config=backbone, patch_embedding=embedding)).eval()
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    card_for_folder(folder / "model").save(folder / "model" / "README.md")
    weights = weights_digest(folder / "model")
    labels = {"global/Abnormal": LabelPoints(20, 30, youden=OperatingPoint(0.25, 0.9, 0.8))}
    OperatingPoints(weights, "d", "validation", 50, PointTargets(), labels, {"global": 2.0}).save(folder / "model")
    tokens = np.random.default_rng(0).normal(size=(60, 24))
    Reference.fit(tokens, tokens[:20], weights, "d").save(folder / "model")
    (folder / "model" / "predictions.csv").write_text("patient,probability\n")
    (folder / "model" / "training_images.json").write_text("{}")
    (folder / "model" / "checkpoint-5").mkdir(exist_ok=True)
    (folder / "model" / "checkpoint-5" / "model.safetensors").write_bytes(b"an older state")
    versions[name] = push_to_hub(folder / "model", repo_id)[repo_id].oid
    with torch.no_grad():
        pixel_values = processor(radiograph, return_tensors="pt")["pixel_values"]
        output = model(pixel_values, output_attentions=True)
        answers = {key: output[key].numpy() for key in ("logits", "local_logits", "mlcak")}
        np.savez(folder / f"{name}.npz", pixel_values=pixel_values.numpy(), attention=output.attentions[1], **answers)
push_to_hub(folder / "model", repo_id, revision="trial")
(folder / "versions.json").write_text(json.dumps(versions))
