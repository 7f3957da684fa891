"""VinDr-CXR: its labels, its folders, and the datasets made of them."""

from .builder import VinDrCXR, load_vindr_cxr
from .inspection import inspect_vindr_cxr
from .inspection_report import InspectionReport
from .labels import GLOBAL_LABELS, VINDR_CXR_LABELS, ImageLabels, Reading, aggregate, canonical_label
from .layout import LeftOut
from .merge import merge_prepared
from .preparation_report import PreparationReport, read_preparation
from .prepare import PartReport, prepare_vindr_cxr, prepare_vindr_cxr_part
from .rows import VinDrCXRConfig, vindr_features

__all__ = [
    "GLOBAL_LABELS",
    "VINDR_CXR_LABELS",
    "ImageLabels",
    "InspectionReport",
    "LeftOut",
    "PartReport",
    "PreparationReport",
    "Reading",
    "VinDrCXR",
    "VinDrCXRConfig",
    "aggregate",
    "canonical_label",
    "inspect_vindr_cxr",
    "load_vindr_cxr",
    "merge_prepared",
    "prepare_vindr_cxr",
    "prepare_vindr_cxr_part",
    "read_preparation",
    "vindr_features",
]
