"""Tiny teachers, students and radiographs that a trainer can be run on in a second."""

import numpy as np
import PIL.Image
import torch
from datasets import Dataset, Features, Image
from transformers import TrainerCallback, set_seed

from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification, MLCAKImageProcessor
from mlcak_hf.data.collator import MLCAKCollator
from mlcak_hf.data.decoded_images import decode_once
from mlcak_hf.data.device_views import DeviceImages, DeviceViewCollator
from mlcak_hf.data.views import ViewParameters
from mlcak_hf.training.arguments import MLCAKTrainingArguments
from mlcak_hf.training.trainer import MLCAKTrainer

FINDINGS = ["Nodule/Mass", "Pneumothorax", "Cardiomegaly"]


def toy_model(size=16, patch=4, layers=2, seed=0, dropout=0.0, model_type="vit", findings=FINDINGS, **kwargs):
    """A model with a few thousand weights, the same for the same seed."""
    backbone = {
        "model_type": model_type,
        "image_size": size,
        "patch_size": patch,
        "num_channels": 1,
        "hidden_size": 16,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    } | ({} if model_type.startswith("dinov2") else {"intermediate_size": 32})
    set_seed(seed)
    model = MLCAKForCXRClassification(MLCAKConfig(backbone_config=backbone, local_labels=list(findings), **kwargs))
    with torch.no_grad():
        # The initial weights are so small that all attention is uniform: make maps that can be told apart.
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embeddings" not in name:
                parameter.mul_(8)
    return model


def toy_cnn(size=24, seed=0, findings=FINDINGS, model_type="resnet", **kwargs):
    """A CNN of a few thousand weights, with other statistics than the initial ones; the same for the same seed."""
    backbone = {"model_type": model_type, "image_size": size, "num_channels": 1, "hidden_sizes": [8, 16]}
    backbone |= {"depths": [1, 1]} | ({"num_stages": 2} if model_type == "convnext" else {"embedding_size": 8})
    backbone |= {"layer_type": "basic"} if model_type == "resnet" else {}
    set_seed(seed)
    model = MLCAKForCXRClassification(MLCAKConfig(backbone_config=backbone, local_labels=list(findings), **kwargs))
    with torch.no_grad():
        model.train()(torch.rand(8, 1, size, size))
    return model


def processor(size: int) -> MLCAKImageProcessor:
    return MLCAKImageProcessor(size={"height": size, "width": size})


def toy_collator(student_size=16, teacher_size=32, views=True, seed=0) -> MLCAKCollator:
    teacher = None if teacher_size is None else processor(teacher_size)
    return MLCAKCollator(processor(student_size), teacher, ViewParameters() if views else None, seed=seed)


def both_kinds():
    """A CNN and an MLCAK teacher, and the collator of their views and a student's."""
    teachers = [toy_cnn(24, seed=3), toy_model(32, 4, layers=4, seed=2)]
    return teachers, MLCAKCollator(processor(16), [processor(24), processor(32)], ViewParameters(), seed=7)


def toy_rows(count=10, seed=0, side=32, findings=3) -> list[dict]:
    """Smooth random radiographs with labels, a third of them missing."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        image = np.kron(rng.integers(0, 255, (4, 4)), np.ones((side // 4, side // 4))).astype(np.uint8)
        labels = rng.integers(-1, 2)
        local_targets = rng.integers(-1, 2, findings).astype(np.float32)
        rows.append({"image": image, "labels": labels, "local_targets": local_targets, "index": index})
    return rows


def views_on_device(collator: MLCAKCollator, rows: list[dict], folder, device="cpu") -> DeviceViewCollator:
    """The same views, made in batches on a device from the images of these rows."""
    images = {"image": [PIL.Image.fromarray(row["image"]) for row in rows]}
    stored = decode_once(Dataset.from_dict(images, features=Features({"image": Image()})), processor(16), folder=folder)
    return DeviceViewCollator(collator, DeviceImages(stored, torch.device(device)))


class KeepGradients(TrainerCallback):
    """Keeps the gradients of every optimizer step."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})


class StopAt(TrainerCallback):
    """Saves a checkpoint after a step, and stops."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


def make_trainer(
    folder,
    student=None,
    teacher="toy",
    rows=None,
    collator=None,
    callbacks=None,
    evaluate=None,
    teacher_cache=None,
    compute_metrics=None,
    **choices,
):
    """A trainer on the CPU with plain SGD, so that a wrong scale of the gradient shows in the weights."""
    defaults = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "learning_rate": 0.05,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
    }
    return MLCAKTrainer(
        toy_model(seed=1) if student is None else student,
        toy_model(32, 4, layers=4, seed=2) if teacher == "toy" else teacher,
        MLCAKTrainingArguments(str(folder), **defaults | choices),
        toy_collator() if collator is None else collator,
        train_dataset=toy_rows() if rows is None else rows,
        eval_dataset=evaluate,
        callbacks=callbacks,
        teacher_cache=teacher_cache,
        compute_metrics=compute_metrics,
    )


def weights_of(trainer):
    return {name: weight.clone() for name, weight in trainer.model.state_dict().items()}


def assert_close(ours, theirs, rtol=1e-5):
    """Compare named tensors relative to their norms, or to a tenth of the largest norm for those near zero."""
    largest = max(value.norm().item() for value in theirs.values())
    for name, value in ours.items():
        off = (value - theirs[name]).norm().item()
        allowed = rtol * max(theirs[name].norm().item(), 1e-1 * largest)
        assert off <= allowed, f"{name} is off by {off:.3g}, more than {allowed:.3g}"
