"""The key of a teacher cache: digests of everything that decides its contents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from ...errors import CacheError
from ..attention import AttentionAlignment
from ..compatibility import load_teacher, load_teacher_config
from ..teachers import as_list

#: Raise it whenever a change of files, pooling or digests makes old caches wrong.
CACHE_FORMAT = 1

# Entries of a saved config that do not change what a teacher computes; attention_levels has its own entry in the key.
_IRRELEVANT = {"transformers_version", "_name_or_path", "name_or_path", "architectures", "auto_map", "dtype"}
_IRRELEVANT |= {"torch_dtype", "attention_levels", "local_loss_weight", "_attn_implementation", "return_dict"}
_IRRELEVANT |= {"output_attentions", "output_hidden_states", "_attn_implementation_internal"}


def teacher_key(teachers: Any) -> dict[str, Any]:
    """Return digests of the weights and configs of the teachers; models in a local folder are not loaded.

    Args:
        teachers (a model, `str` or `os.PathLike`, or several of them):
            Models, folders or Hub ids.

    Returns:
        `dict[str, Any]`: `teacher weights` and `teacher config`, each a list with one entry per teacher.

    Raises:
        [`DistillationError`]: When a teacher cannot be loaded.
    """
    models = [teacher if _saved_weights(teacher) else load_teacher(teacher) for teacher in as_list(teachers)]
    return {
        "teacher weights": [_digest_of_tensors(_tensors(model)) for model in models],
        "teacher config": [digest(config) for config in teacher_configs(models)],
    }


def teacher_configs(teachers: Any) -> list[dict[str, Any]]:
    """Return the config of every teacher as JSON, without paths and other entries that do not change its outputs."""
    configs: list[Any] = [
        teacher.config if isinstance(teacher, nn.Module) else load_teacher_config(teacher)
        for teacher in as_list(teachers)
    ]
    return [_relevant(json.loads(config.to_json_string(use_diff=False))) for config in configs]


def views_key(collator: Any) -> dict[str, Any]:
    """Return what decides a view besides the stored image and the number of the view: `views`.

    Raises:
        [`CacheError`]: When the collator does not have the method `view_key`.
    """
    if not hasattr(collator, "view_key"):
        raise CacheError(
            f"A teacher cache needs a collator with the method view_key; got {type(collator).__name__}. "
            "Use an MLCAKCollator."
        )
    return {"views": _as_json(collator.view_key())}


def processors_key(processors: Any) -> dict[str, Any]:
    """Return the settings of every teacher's image processor: `teacher processor`."""
    return {"teacher processor": [_relevant(_as_json(processor.to_dict())) for processor in as_list(processors)]}


def pixels_key(dataset: Any) -> dict[str, Any]:
    """Return number and digest of the stored images of a dataset, in order: `number of images`, `stored pixels`.

    A dataset with the method `pixel_fingerprint` provides the digest itself, without decoding images.
    """
    if hasattr(dataset, "pixel_fingerprint"):
        fingerprint = dataset.pixel_fingerprint()
    else:
        fingerprint = _digest_of_images(dataset[index]["image"] for index in range(len(dataset)))
    return {"number of images": len(dataset), "stored pixels": fingerprint}


def attention_key(alignments: Sequence[AttentionAlignment | None], configs: Sequence[Any]) -> dict[str, Any]:
    """Return which attention is stored: `attention grid`, `attention levels` of every teacher, and the aggregation.

    Args:
        alignments (`Sequence` of [`AttentionAlignment`]):
            The student's alignment with every teacher; `None` when attention is not taught.
        configs (`Sequence` of [`MLCAKConfig`]):
            Configs of the teachers.
    """
    known = [alignment for alignment in alignments if alignment is not None]
    if not known:
        return {"attention grid": None, "attention levels": None, "attention aggregation": None}
    levels = [
        [config.resolved_attention_levels[position] for position in alignment.teacher_levels]
        for alignment, config in zip(known, configs, strict=True)
    ]
    return {
        "attention grid": list(known[0].target_grid),
        "attention levels": levels,
        "attention aggregation": known[0].aggregation,
    }


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """List the differences between two keys.

    Args:
        expected (`Mapping[str, Any]`):
            The parts to compare.
        found (`Mapping[str, Any]`):
            The key of a cache.

    Returns:
        `list[str]`: One phrase per part that differs, such as `seed: expected 1, found 2`.
    """
    phrases = []
    for name, value in expected.items():
        other = found.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            phrases += differences({f"{name}, {part}": value[part] for part in value}, _prefixed(name, other))
        elif value != other:
            phrases.append(f"{name}: expected {_short(value)}, found {_short(other)}")
    return phrases


def digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _saved_weights(teacher: Any) -> list[Path]:
    """Return the safetensors files of a teacher in a local folder; empty for a model or a Hub id."""
    if isinstance(teacher, nn.Module) or not Path(teacher).is_dir():
        return []
    return sorted(Path(teacher).glob("*.safetensors"))


def _tensors(teacher: Any) -> dict[str, Any]:
    """Return a function per weight that loads it, by name."""
    files = _saved_weights(teacher)
    if not files:
        return {name: tensor.detach for name, tensor in teacher.state_dict().items()}
    tensors: dict[str, Any] = {}
    for path in files:
        opened: Any = safe_open(path, framework="pt")
        tensors |= {name: partial(opened.get_tensor, name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    return tensors


def _digest_of_tensors(tensors: Mapping[str, Any]) -> str:
    """Return a digest that is the same for a model and for the folder it was saved in."""
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        tensor: Tensor = tensors[name]().cpu().contiguous()
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        hashed.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def _digest_of_images(images: Iterable[Any]) -> str:
    hashed = hashlib.sha256()
    for image in images:
        pixels = np.ascontiguousarray(np.asarray(image))
        hashed.update(f"{pixels.dtype} {pixels.shape} ".encode())
        hashed.update(pixels.tobytes())
    return hashed.hexdigest()


def _relevant(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _relevant(entry) for name, entry in value.items() if name not in _IRRELEVANT}
    return value


def _as_json(value: Any) -> Any:
    """Convert a value as a JSON file would: tuples become lists, NumPy scalars become numbers."""
    return json.loads(json.dumps(value, default=lambda entry: entry.item() if hasattr(entry, "item") else str(entry)))


def _prefixed(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}, {part}": value for part, value in values.items()}


def _short(value: Any) -> str:
    """Shorten digests to their first digits."""
    if isinstance(value, list):
        return "[" + ", ".join(_short(entry) for entry in value) + "]"
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else str(value)
