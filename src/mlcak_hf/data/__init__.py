"""Radiographs and their labels: files to arrays, VinDr-CXR as a dataset, paired views. Phantoms: `.phantom`."""

from .collator import MLCAKCollator
from .columns import DatasetColumns, Targets
from .dicom import read_dicom
from .radiograph import RadiographNotFoundError, read_radiograph, resize_radiograph
from .sources import RadiographDataset, open_dataset
from .views import View, ViewParameters
from .vindr import (
    GLOBAL_LABELS,
    VINDR_CXR_LABELS,
    ImageLabels,
    InspectionReport,
    LeftOut,
    PartReport,
    PreparationReport,
    Reading,
    VinDrCXR,
    VinDrCXRConfig,
    aggregate,
    canonical_label,
    inspect_vindr_cxr,
    load_vindr_cxr,
    merge_prepared,
    prepare_vindr_cxr,
    prepare_vindr_cxr_part,
    read_preparation,
    vindr_features,
)

__all__ = [
    "GLOBAL_LABELS",
    "VINDR_CXR_LABELS",
    "DatasetColumns",
    "ImageLabels",
    "InspectionReport",
    "LeftOut",
    "MLCAKCollator",
    "PartReport",
    "PreparationReport",
    "RadiographDataset",
    "RadiographNotFoundError",
    "Reading",
    "Targets",
    "View",
    "ViewParameters",
    "VinDrCXR",
    "VinDrCXRConfig",
    "aggregate",
    "canonical_label",
    "inspect_vindr_cxr",
    "load_vindr_cxr",
    "merge_prepared",
    "open_dataset",
    "prepare_vindr_cxr",
    "prepare_vindr_cxr_part",
    "read_dicom",
    "read_preparation",
    "read_radiograph",
    "resize_radiograph",
    "vindr_features",
]
