"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from ..radiographs.choices import ValueRange, Voi
from ..vindr_cxr.choices import Layout

LayoutOption = Annotated[Layout, Option(help="Source layout. `auto` detects it from the tables present.")]
SizesOption = Annotated[
    str | None,
    Option(
        help="For PNG and JPEG files: a CSV file with image_id, height, width of the originals, which the boxes refer"
        " to, or `same` if the images have their original size."
    ),
]
ModelArgument = Annotated[str, Argument(help="Folder, Hub id or name of a trained model, or an exported ONNX file.")]
RuntimeOption = Annotated[
    Literal["torch", "onnx"] | None,
    Option(help="Run the model on PyTorch or on onnxruntime. By default what it is made for."),
]
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
