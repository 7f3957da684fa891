"""Radiographs and their labels: files to arrays, VinDr-CXR as a dataset, phantoms, paired views."""

from .dicom import read_dicom
from .labels import GLOBAL_LABELS, VINDR_CXR_LABELS, ImageLabels, Reading, aggregate, canonical_label
from .prepare import PreparationReport, prepare_vindr_cxr, read_preparation
from .radiograph import RadiographNotFoundError, read_radiograph, resize_radiograph
from .vindr_cxr import VinDrCXR, VinDrCXRConfig, load_vindr_cxr, vindr_features
from .vindr_layout import LeftOut

__all__ = [
    "GLOBAL_LABELS",
    "VINDR_CXR_LABELS",
    "ImageLabels",
    "LeftOut",
    "PreparationReport",
    "RadiographNotFoundError",
    "Reading",
    "VinDrCXR",
    "VinDrCXRConfig",
    "aggregate",
    "canonical_label",
    "load_vindr_cxr",
    "prepare_vindr_cxr",
    "read_dicom",
    "read_preparation",
    "read_radiograph",
    "resize_radiograph",
    "vindr_features",
]
