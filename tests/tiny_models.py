"""Tiny random models of every backbone family, for the tests of the model."""

import torch
from transformers import (
    DeiTConfig,
    DeiTModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ViTConfig,
    ViTModel,
)

from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification

TYPES = ["vit", "deit", "dinov2", "dinov2_with_registers"]
CONFIGS = {"vit": ViTConfig, "deit": DeiTConfig, "dinov2": Dinov2Config}
CONFIGS |= {"dinov2_with_registers": Dinov2WithRegistersConfig}
MODELS = {"vit": ViTModel, "deit": DeiTModel, "dinov2": Dinov2Model, "dinov2_with_registers": Dinov2WithRegistersModel}
FINDINGS = ["Edema", "Nodule/Mass", "Pneumothorax"]


def backbone_config(model_type="vit", **fields):
    tiny = {"image_size": 16, "patch_size": 4, "num_channels": 1, "hidden_size": 24, "num_hidden_layers": 3}
    tiny |= {"num_attention_heads": 3}
    tiny |= {"mlp_ratio": 2} if model_type.startswith("dinov2") else {"intermediate_size": 48}
    return CONFIGS[model_type](**(tiny | fields))


def randomise(model, seed=0, std=0.3):
    """Weights far from their initial values: attention far from uniform, biases and norms that matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            sharpness = 3 if "q_proj" in name or "k_proj" in name else 1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std * sharpness)
    return model


def tiny_model(model_type="vit", seed=0, backbone=None, **fields):
    fields = {"local_labels": FINDINGS} | fields
    config = MLCAKConfig(backbone_config=backbone_config(model_type, **(backbone or {})), **fields)
    return randomise(MLCAKForCXRClassification(config), seed).eval()


def images(batch=2, size=16, channels=1, seed=1):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))
