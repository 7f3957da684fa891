"""The errors this package raises for input that a person can mend: what was expected, what came, what to do."""


class MLCAKError(Exception):
    """Base of every error that mlcak-hf raises on purpose."""


class DicomError(MLCAKError, ValueError):
    """A radiograph cannot be read, or cannot be read without guessing."""


class LabelError(MLCAKError, ValueError):
    """Labels, findings or annotation tables do not say what they must."""


class DatasetError(MLCAKError, ValueError):
    """A dataset folder or its columns are not laid out as expected."""


class RecipeError(MLCAKError, ValueError):
    """A recipe file or a training argument cannot be used as written."""


class DistillationError(MLCAKError, ValueError):
    """Teacher and student cannot be distilled as they stand."""


class CacheError(MLCAKError, RuntimeError):
    """A teacher cache is of something else than asked for, is not whole, or cannot be written."""


class DeploymentError(MLCAKError, ValueError):
    """A model cannot be described or published as it stands."""
