"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Option

from ..radiographs.choices import ValueRange, Voi
from ..vindr_cxr.choices import Layout

if TYPE_CHECKING:
    from ..prediction.predictor import RadiographPredictor

LayoutOption = Annotated[Layout, Option(help="Source layout. `auto` detects it from the tables present.")]
SizesOption = Annotated[
    str | None,
    Option(
        help="For PNG and JPEG files: a CSV file with image_id, height, width of the originals, which the boxes refer"
        " to, or `same` if the images have their original size."
    ),
]
ModelArgument = Annotated[str, Argument(help="Folder or Hub id of a trained model.")]
ThreadsOption = Annotated[int, Option(help="Threads of the model on the CPU.", min=1)]
DeviceOption = Annotated[str | None, Option(help="cpu, cuda or mps. By default the first GPU, else the CPU.")]
ValueRangeOption = Annotated[
    ValueRange | None,
    Option(
        metavar="LOW HIGH",
        help="Stored values of PNG and JPEG files that become black and white, such as 0 4095 for 12 bits in 16.",
    ),
]
VoiOption = Annotated[
    Voi | None,
    Option(help="Grey values: the file's window, percentiles, or all stored bits. By default as in training."),
]
OnSuspectOption = Annotated[
    Literal["warn", "refuse"],
    Option(
        help="What to do if an image does not look like an upright frontal chest X-ray or is unlike the training"
        " images."
    ),
]
OperatingPointOption = Annotated[
    Literal["youden", "sensitivity", "specificity"],
    Option(help="Which threshold of `mlcak calibrate` decides."),
]
ReportsOption = Annotated[
    Path | None,
    Option(help="Folder for a DICOM report of each predicted DICOM file. Needs mlcak-hf[dicom-out]."),
]
ReportAsOption = Annotated[
    Literal["sr", "sc"],
    Option(help="sr: Structured Report with the probabilities; sc: picture of what the model attended to."),
]


def load_predictor(
    model: str,
    device: str | None,
    threads: int,
    value_range: ValueRange | None,
    voi: Voi | None,
    on_suspect: Literal["warn", "refuse"],
    operating_point: Literal["youden", "sensitivity", "specificity"],
) -> RadiographPredictor:
    """Load a model with the options above."""
    import torch
    from transformers.utils import logging

    from ..prediction.predictor import RadiographPredictor

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(threads)
    return RadiographPredictor.from_pretrained(
        model, device=device, value_range=value_range, voi=voi, on_suspect=on_suspect, operating_point=operating_point
    )
