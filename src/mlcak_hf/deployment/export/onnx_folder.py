"""Export to ONNX: a folder with the model, its preprocessing, a card and a program that predicts with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from ... import __version__
from ...errors import DeploymentError, MLCAKError
from ...image_geometry_mlcak import check_choice
from ...prediction.onnx_metadata import METADATA_KEY, MODEL_FILES, PREPROCESS_FILE, OnnxMetadata
from ...prediction.predictor import RadiographPredictor
from ...pretrained import Source
from ...radiographs.choices import Fit, Voi
from .new_folder import new_folder
from .onnx_card import onnx_card
from .onnx_check import (
    OnnxDifference,
    check_difference,
    check_images,
    check_preprocessing,
    measured_difference,
    torch_outputs,
)
from .onnx_model import DTYPES, Dtype, check_packages, model_graph, with_dtype
from .onnx_preprocessing import preprocessing_model
from .onnx_program import write_program


@dataclass(frozen=True)
class OnnxExport:
    """What was exported.

    Args:
        differences (`list` of [`OnnxDifference`]):
            Largest differences of each model file from PyTorch.
        pixel_difference (`float`):
            Largest difference of the preprocessing graph from the processor.
    """

    differences: list[OnnxDifference]
    pixel_difference: float


def export_onnx(source: Source, output: str | Path, dtypes: Sequence[Dtype] = ("float32",)) -> OnnxExport:
    """Write a folder of ONNX files that predict what an MLCAK model predicts.

    Args:
        source (`str` or `Path`):
            Folder, Hub id or name of a shipped checkpoint.
        output (`str` or `Path`):
            New or empty folder.
        dtypes (`Sequence[str]`, *optional*, defaults to `("float32",)`):
            `"float32"`, `"float16"` and `"int8"`; one file for each.

    Returns:
        [`OnnxExport`]

    Raises:
        [`DeploymentError`]: When a package is missing, the model cannot be loaded, or a written file differs from
            PyTorch by more than its type of numbers explains.
    """
    check_packages()
    for dtype in dtypes:
        check_choice("dtype", dtype, DTYPES, DeploymentError)
    if not dtypes:
        raise DeploymentError("dtypes must name at least one of float32, float16 and int8; got none.")
    try:
        predictor = RadiographPredictor.from_pretrained(source, device="cpu")
    except DeploymentError:
        raise
    except MLCAKError as error:
        raise DeploymentError(str(error)) from error
    model, reference = predictor.model, predictor.reference
    metadata = describe(predictor)
    with new_folder(output) as folder:
        graph, pixel_values = model_graph(model, reference), check_images(predictor.processor)
        expected, differences = torch_outputs(model, reference, pixel_values), []
        for dtype in dict.fromkeys(dtypes):
            file = folder / MODEL_FILES[dtype]
            _save(with_dtype(graph, dtype), metadata, file)
            differences.append(measured_difference(file, expected, pixel_values, metadata.problem_type))
            check_difference(differences[-1], dtype)
        file = folder / PREPROCESS_FILE
        file.write_bytes(preprocessing_model(replace(metadata, part="preprocess")).SerializeToString())
        made = OnnxExport(differences, check_preprocessing(file, predictor.processor))
        onnx_card(source, Path(output).resolve().name, metadata, made.differences, made.pixel_difference).save(
            folder / "README.md"
        )
        write_program(folder)
    return made


def describe(predictor: RadiographPredictor) -> OnnxMetadata:
    """Collect what an exported file says about its model.

    Args:
        predictor ([`RadiographPredictor`]):
            The model with its processor and what `mlcak calibrate` wrote.
    """
    config, processor, safeguards = predictor.model.config, predictor.processor, predictor.safeguards
    channels = len(processor.image_mean)
    return OnnxMetadata(
        part="model",
        model=predictor.model_name or "",
        weights=predictor.weights,
        mlcak_version=__version__,
        global_labels=config.global_labels,
        local_labels=config.local_labels,
        unlearned_findings=[name for name in config.local_labels if name in predictor.unlearned_findings],
        problem_type=str(config.problem_type),
        size_px=int(processor.size["height"]),
        fit=cast(Fit, processor.fit),
        lowres=processor.lowres,
        voi=cast(Voi, processor.voi),
        image_mean=list(processor.image_mean) if processor.do_normalize else [0.0] * channels,
        image_std=list(processor.image_std) if processor.do_normalize else [1.0] * channels,
        operating_points=None if safeguards.points is None else safeguards.points.record(),
        distance_limit=None if safeguards.reference is None else safeguards.reference.limit,
    )


def _save(model: Any, metadata: OnnxMetadata, file: Path) -> None:
    import onnx

    onnx.helper.set_model_props(model, {METADATA_KEY: metadata.to_json()})
    onnx.checker.check_model(model, full_check=True)
    file.write_bytes(model.SerializeToString())
