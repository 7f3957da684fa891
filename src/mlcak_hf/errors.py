"""The errors that the package raises for input that the user can correct."""

from __future__ import annotations


class MLCAKError(Exception):
    """Base class of all errors raised by mlcak-hf."""


class DicomError(MLCAKError, ValueError):
    """A radiograph cannot be read, or only by guessing."""


class LabelError(MLCAKError, ValueError):
    """Labels, findings or annotation tables are missing or invalid."""


class DatasetError(MLCAKError, ValueError):
    """A dataset folder or its columns do not have the expected layout."""


class RecipeError(MLCAKError, ValueError):
    """A recipe file or a training argument is invalid."""


class DistillationError(MLCAKError, ValueError):
    """Teacher and student do not match, or the distillation settings are invalid."""


class CacheError(MLCAKError, RuntimeError):
    """A teacher cache is incomplete, belongs to different settings, or cannot be written."""


class DeploymentError(MLCAKError, ValueError):
    """A model cannot be described, exported or published."""
