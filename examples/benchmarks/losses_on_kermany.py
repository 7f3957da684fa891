"""Compare the attention losses on real chest X-rays: which of them trains anything, and is it worth it?

    python examples/benchmarks/losses_on_kermany.py --dataset kermany-pneumonia-224/train.parquet --seeds 3

Kermany's paediatric radiographs (normal / pneumonia; columns image, label, patient_id). One tiny ViT teacher from
scratch at 112 px; for every seed a student at 28 px without teacher, with logit distillation, and with each attention
loss on top. Rows of a seed share initial weights, data order, views and number of steps. Printed per row: AUROC on
held-out patients, how far the student's attention and logits are from the teacher's there, and how the attention loss
fell.
With the default sizes it took 85 minutes at low priority on two busy cores; `--output` keeps every number as JSON.
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import transformers
from sklearn.metrics import roc_auc_score
from transformers import set_seed

from mlcak_hf import MLCAKConfig, MLCAKForCXRClassification, MLCAKImageProcessor
from mlcak_hf.data.collator import MLCAKCollator
from mlcak_hf.data.columns import DatasetColumns, Targets, global_label_names
from mlcak_hf.data.sources import RadiographDataset, open_dataset, split_validation
from mlcak_hf.data.views import ViewParameters
from mlcak_hf.distillation.compatibility import check_teacher
from mlcak_hf.distillation.losses import AttentionDistillationLoss
from mlcak_hf.image_processing_mlcak import area_resize, to_unit_range
from mlcak_hf.script import parse_recipe
from mlcak_hf.training.arguments import MLCAKTrainingArguments
from mlcak_hf.training.trainer import MLCAKTrainer

NOTHING = {"alpha": 0.0, "beta": 0.0, "gamma": 0.0}
ROWS = {
    "student alone": NOTHING,
    "+ logits": NOTHING | {"beta": 1.0},
    "+ mse, mean": {"attention_loss": "mse", "attention_aggregation": "mean"},
    "+ normalized_mse, mean": {"attention_loss": "normalized_mse", "attention_aggregation": "mean"},
    "+ normalized_mse, per_level": {"attention_loss": "normalized_mse", "attention_aggregation": "per_level"},
    "+ kl, mean": {"attention_loss": "kl", "attention_aggregation": "mean"},
    "+ kl, per_level": {"attention_loss": "kl", "attention_aggregation": "per_level"},
}


@dataclass
class Sizes:
    """What is compared, and how large it is."""

    dataset: str = field(metadata={"help": "Parquet file with image, label and patient_id"})
    output: str | None = field(default=None, metadata={"help": "JSON file for every number"})
    seeds: int = field(default=3, metadata={"help": "Students per row"})
    teacher_images: int = field(default=2500, metadata={"help": "Training images of the teacher"})
    student_images: int = field(default=1200, metadata={"help": "Training images of each student"})
    validation_images: int = field(default=1000, metadata={"help": "Held-out images"})
    teacher_epochs: int = field(default=8, metadata={"help": "Passes of the teacher"})
    student_epochs: int = field(default=8, metadata={"help": "Passes of each student"})
    gamma: float = field(default=1.0, metadata={"help": "Weight of the attention loss"})


def vit(image_size: int, patch_size: int, labels: list[str]) -> MLCAKForCXRClassification:
    """A ViT small enough for one core: width 64, 4 layers."""
    backbone = {"model_type": "vit", "image_size": image_size, "patch_size": patch_size, "num_channels": 1}
    backbone |= {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256}
    return MLCAKForCXRClassification(
        MLCAKConfig(backbone_config=backbone, local_labels=[], id2label=dict(enumerate(labels)))
    )


def train(model, teacher, collator, rows, epochs: int, seed: int, **choices) -> list[dict]:
    """Train and return the log."""
    args = MLCAKTrainingArguments(
        "losses_on_kermany", num_train_epochs=epochs, per_device_train_batch_size=32, learning_rate=1e-3,
        weight_decay=0.05, warmup_steps=20, lr_scheduler_type="cosine", logging_strategy="epoch", save_strategy="no",
        report_to="none", disable_tqdm=True, seed=seed, use_cpu=True, **choices,
    )  # fmt: skip
    trainer = MLCAKTrainer(model, teacher, args, collator, train_dataset=rows)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return [entry for entry in trainer.state.log_history if "loss" in entry]


@torch.no_grad()
def measure(model, teacher, collator, rows) -> dict[str, float]:
    """AUROC, and distances to the teacher that are the same for every row."""
    model.eval()
    alignment = check_teacher(teacher, model, aggregation="per_level")
    attention_loss = AttentionDistillationLoss("normalized_mse")
    scores, labels, attention, logits = [], [], [], []
    for start in range(0, len(rows), 100):
        batch = collator(rows[start : start + 100])
        ours = model(batch["pixel_values"], output_attentions=True)
        theirs = teacher(batch["teacher_pixel_values"], output_attentions=True)
        attention.append(attention_loss(*alignment(ours.attentions, theirs.attentions)))
        logits.append((ours.logits - theirs.logits).pow(2).mean(-1))
        scores.append(ours.logits.softmax(-1)[:, 1])
        labels.append(batch["labels"])
    return {
        "auroc": float(roc_auc_score(torch.cat(labels), torch.cat(scores))),
        "attention_distance": float(torch.cat(attention).mean()),
        "logit_distance": float(torch.cat(logits).mean()),
    }


def rows_in_memory(dataset: RadiographDataset, count: int, side_px: int) -> list[dict]:
    """Decode once, at the side that the teacher sees."""
    chosen = np.random.default_rng(0).permutation(len(dataset))[:count]
    rows = [dataset[int(i)] for i in chosen]
    return [row | {"image": area_resize(to_unit_range(row["image"]), side_px, side_px)} for row in rows]


def main() -> None:
    (sizes,) = parse_recipe([Sizes])
    transformers.logging.set_verbosity_error()
    start = time.time()
    columns = DatasetColumns(findings=None, group="patient_id")
    train_split, validation_split = split_validation(open_dataset(sizes.dataset)["train"], columns, fraction=0.2)
    labels = global_label_names(train_split, columns)
    targets = Targets(vit(28, 4, labels).config, train_split, columns)
    train_rows = rows_in_memory(RadiographDataset(train_split, targets), sizes.teacher_images, 112)
    validation_rows = rows_in_memory(RadiographDataset(validation_split, targets), sizes.validation_images, 112)
    student_processor, teacher_processor = (
        MLCAKImageProcessor(size={"height": side, "width": side}) for side in (28, 112)
    )
    exact = MLCAKCollator(student_processor, teacher_processor)

    set_seed(100)
    teacher = vit(112, 8, labels)
    train(
        teacher, None, MLCAKCollator(teacher_processor, views=ViewParameters()), train_rows, sizes.teacher_epochs, 100
    )
    teacher.requires_grad_(False).eval()
    with torch.no_grad():
        scores = torch.cat(
            [teacher(exact([row])["teacher_pixel_values"]).logits.softmax(-1)[:, 1] for row in validation_rows]
        )
    auroc = roc_auc_score([int(row["labels"]) for row in validation_rows], scores)
    print(f"teacher at 112 px: AUROC {auroc:.4f} ({time.time() - start:.0f} s)", flush=True)

    results: dict[str, list[dict]] = {name: [] for name in ROWS}
    for seed in range(sizes.seeds):
        for name, choices in ROWS.items():
            set_seed(seed)
            student = vit(28, 4, labels)
            collator = MLCAKCollator(student_processor, teacher_processor, ViewParameters(), seed=seed)
            weights = {"gamma": sizes.gamma} | choices
            log = train(
                student, teacher, collator, train_rows[: sizes.student_images], sizes.student_epochs, seed, **weights
            )
            result = measure(student, teacher, exact, validation_rows)
            if "distil_attention" in log[-1]:
                result |= {"first": log[0]["distil_attention"], "last": log[-1]["distil_attention"]}
            results[name].append(result | {"log": log})
            print(f"seed {seed} {name:28s} AUROC {result['auroc']:.4f} ({time.time() - start:.0f} s)", flush=True)
            if sizes.output:
                Path(sizes.output).write_text(json.dumps({"teacher_auroc": auroc, "rows": results}, indent=1))

    print(f"\n{'':28s} {'AUROC':>15s} {'attention':>16s} {'logits':>14s}   attention loss in training")
    for name, runs in results.items():
        cells = []
        for key, digits in (("auroc", 4), ("attention_distance", 3), ("logit_distance", 2)):
            values = [run[key] for run in runs]
            cells.append(f"{np.mean(values):.{digits}f} +- {np.std(values, ddof=min(1, len(values) - 1)):.{digits}f}")
        fall = "-"
        if "first" in runs[0]:
            fall = f"{np.mean([run['first'] for run in runs]):.2e} -> {np.mean([run['last'] for run in runs]):.2e}"
        print(f"{name:28s} {cells[0]:>15s} {cells[1]:>16s} {cells[2]:>14s}   {fall}")


if __name__ == "__main__":
    main()
