"""Draw some radiographs as a teacher and its student see them, with the student's attention: one picture for a report.

    python examples/demo/draw_overview.py --dataset demo/dataset --teacher demo/teacher --student demo/student-mlcak \
        --output demo/overview.png

Columns are test images: one without a finding, then one for each finding that the split has, the most frequent first.
Rows: the image as the teacher sees it, with the readers' boxes; as the student sees it; the student's attention.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mlcak_hf import MLCAKForCXRClassification, MLCAKImageProcessor
from mlcak_hf.data.collator import MLCAKCollator
from mlcak_hf.data.sources import open_dataset
from mlcak_hf.explanation.class_token import class_token_attention
from mlcak_hf.explanation.overlay import attention_over_radiograph
from mlcak_hf.image_processing_mlcak import map_boxes
from mlcak_hf.preparation.report import PreparationReport
from mlcak_hf.probabilities import probabilities
from mlcak_hf.script import parse_recipe, run_script


@dataclass
class OverviewArguments:
    """Which images and models, and where to draw."""

    dataset: str = field(metadata={"help": "Folder that `mlcak prepare` wrote."})
    teacher: str = field(metadata={"help": "Folder of the teacher."})
    student: str = field(metadata={"help": "Folder of the student."})
    output: str = field(metadata={"help": "PNG to write."})
    split: str = field(default="test", metadata={"help": "Split to take the images from."})
    columns: int = field(default=6, metadata={"help": "Number of images."})


def choose_rows(rows: Dataset, columns: int) -> list[tuple[int, str]]:
    """One normal image and the first image of each finding: (row, title), the most frequent findings first."""
    findings = rows.with_format(None)["findings"]
    first: dict[str, int] = {}
    count: dict[str, int] = {}
    for place, values in enumerate(findings):
        for name in (name for name, value in values.items() if value > 0.5):
            first.setdefault(name, place)
            count[name] = count.get(name, 0) + 1
    chosen = [(first[name], name) for name in sorted(count, key=lambda name: -count[name])]
    normal = [place for place, label in enumerate(rows["label"]) if label == 0][:1]
    return ([(place, "No finding") for place in normal] + chosen)[:columns]


@torch.inference_mode()
def apply_model(folder: str, images: list) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a model's pixels `(n, S, S)` in [0, 1], probability of the last label `(n,)` and attention `(n, r, c)`."""
    model = MLCAKForCXRClassification.from_pretrained(folder)
    processor = MLCAKImageProcessor.from_pretrained(folder)
    pixels = MLCAKCollator(processor)([{"image": image} for image in images])["pixel_values"]
    output = model(pixels, output_attentions=True)
    shown = pixels[:, 0].numpy() * processor.image_std[0] + processor.image_mean[0]
    attention = class_token_attention(output.mlcak.numpy(), model.config.num_prefix_tokens, model.grid_size)
    return shown, probabilities(output.logits, model.config.problem_type)[:, -1], attention


def main() -> None:
    """Choose images, apply both models, draw."""
    (args,) = parse_recipe([OverviewArguments])
    rows, fit = open_dataset(args.dataset)[args.split], PreparationReport.read(args.dataset).choices["fit"]
    chosen = choose_rows(rows, args.columns)
    images = [rows[place]["image"] for place, _ in chosen]
    seen_by_teacher, teacher_says, _ = apply_model(args.teacher, images)
    seen_by_student, student_says, attention = apply_model(args.student, images)
    large, small = seen_by_teacher.shape[-1], seen_by_student.shape[-1]

    figure = Figure(figsize=(2.1 * len(chosen), 7.0), dpi=110, layout="constrained")
    axes = figure.subplots(3, len(chosen), squeeze=False)
    for column, (place, title) in enumerate(chosen):
        row = rows[place]
        top, middle, bottom = axes[:, column]
        top.imshow(seen_by_teacher[column], cmap="gray", vmin=0, vmax=1)
        corners = [[box[name] for name in ("x_min", "y_min", "x_max", "y_max")] for box in row["boxes"]]
        size = (row["original_height"], row["original_width"])
        for x0, y0, x1, y1 in map_boxes(corners, size, (large, large), fit):
            top.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, color="#ffb000"))
        top.set_title(title, fontsize=10)
        middle.imshow(seen_by_student[column], cmap="gray", vmin=0, vmax=1)
        relative = attention[column] * attention[column].size / attention[column].sum()
        over = attention_over_radiograph(relative, (small, small), small, "squash", (large, large))
        bottom.imshow(seen_by_teacher[column], cmap="gray", vmin=0, vmax=1)
        drawn = bottom.imshow(over, cmap="inferno", alpha=0.5, vmin=0, vmax=4)
        top.set_xlabel(f"teacher: {teacher_says[column]:.2f}", fontsize=9)
        middle.set_xlabel(f"student: {student_says[column]:.2f}", fontsize=9)
    for axis, label in zip(axes[:, 0], (f"{large} px, boxes", f"{small} px", "student's attention"), strict=True):
        axis.set_ylabel(label, fontsize=10)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    figure.colorbar(drawn, ax=axes[2, :].tolist(), label="attention / uniform", shrink=0.8)
    figure.supxlabel("Numbers: probability of Abnormal. Research use only: no basis for a diagnosis.", fontsize=9)
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output)
    print(f"Overview: {args.output}")


if __name__ == "__main__":
    run_script(main)
