"""The key of a teacher cache: digests of everything that decides its contents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from ...configuration_mlcak import MLCAKConfig
from ...errors import CacheError
from ..logit_teachers import LogitTeacherConfig
from ..teachers import Teachers

#: Raise it whenever a change of files, pooling or digests makes old caches wrong.
CACHE_FORMAT = 2

# Entries of a saved config that do not change what a teacher computes; attention_levels has its own entry in the key.
_IRRELEVANT = {"transformers_version", "_name_or_path", "name_or_path", "architectures", "auto_map", "dtype"}
_IRRELEVANT |= {"torch_dtype", "attention_levels", "local_loss_weight", "_attn_implementation", "return_dict"}
_IRRELEVANT |= {"output_attentions", "output_hidden_states", "_attn_implementation_internal"}


def cache_key(teachers: Teachers, collator: Any, dataset: Any = None) -> dict[str, Any]:
    """Return everything that decides what the teachers output for a view, as JSON.

    Args:
        teachers ([`Teachers`]):
            The teachers with their alignment. Of teachers that a cache describes, only the attention is compared.
        collator ([`MLCAKCollator`]):
            Makes the views; with or without the image processors of the teachers.
        dataset (*optional*):
            Rows of images. With the method `pixel_fingerprint` it provides the digest itself, without decoding them.

    Raises:
        [`CacheError`]: When the collator does not have the method `view_key`.
        [`DistillationError`]: When a teacher cannot be loaded.
    """
    if not hasattr(collator, "view_key"):
        raise CacheError(
            f"A teacher cache needs a collator with the method view_key; got {type(collator).__name__}. "
            "Use an MLCAKCollator."
        )
    key: dict[str, Any] = {}
    if dataset is not None:
        key |= {"number of images": len(dataset), "stored pixels": _digest_of_images(dataset)}
    key["views"] = _as_json(collator.view_key())
    if collator.teacher_processors:
        key["teacher processor"] = [_relevant(_as_json(entry.to_dict())) for entry in collator.teacher_processors]
    if not isinstance(teachers.sources[0], MLCAKConfig | LogitTeacherConfig):
        configs = [json.dumps(config, sort_keys=True).encode() for config in described_configs(teachers)]
        key["teacher weights"] = [_digest_of_weights(teachers, number) for number in range(len(teachers.sources))]
        key["teacher config"] = [hashlib.sha256(config).hexdigest() for config in configs]
    if any(isinstance(config, LogitTeacherConfig) for config in teachers.configs):
        # These are matched with the labels of the student by name.
        key["labels"] = {"global": list(teachers.labels.global_labels), "kind": teachers.labels.problem_type}
        if teachers.labels.local_labels:
            key["labels"]["local"] = list(teachers.labels.local_labels)
    known, pairs = teachers.alignment, zip(teachers.alignments, teachers.configs, strict=True)
    levels = [
        [config.resolved_attention_levels[position] for position in alignment.teacher_levels]
        for alignment, config in pairs
        if alignment is not None
    ]
    return key | {
        "attention grid": list(known.target_grid) if known else None,
        "attention levels": levels or None,
        "attention aggregation": known.aggregation if known else None,
    }


def described_configs(teachers: Teachers) -> list[dict[str, Any]]:
    """Return the config of every teacher as JSON, without paths and other entries that do not change its outputs."""
    return [_relevant(json.loads(config.to_json_string(use_diff=False))) for config in teachers.configs]


def differences(expected: Mapping[str, Any], found: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List the differences between two keys.

    Args:
        expected (`Mapping[str, Any]`):
            The parts to compare.
        found (`Mapping[str, Any]`):
            The key of a cache.
        prefix (`str`, *optional*, defaults to `""`):
            Written before every name.

    Returns:
        `list[str]`: One phrase per part that differs, such as `seed: expected 1, found 2`.
    """
    phrases = []
    for name, value in expected.items():
        other = found.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            phrases += differences(value, other, f"{prefix}{name}, ")
        elif value != other:
            phrases.append(f"{prefix}{name}: expected {_short(value)}, found {_short(other)}")
    return phrases


def _digest_of_weights(teachers: Teachers, number: int) -> str:
    """Return a digest that is the same for a model and for its local folder, which is not loaded."""
    source = teachers.sources[number]
    paths = list(Path(source).glob("*.safetensors")) if isinstance(source, (str, PathLike)) else []
    files: list[Any] = [safe_open(path, "pt") for path in paths]
    places = {name: file for file in files for name in file.keys()}  # noqa: SIM118 - no mapping
    weights = {} if files else teachers.models[number].state_dict()
    hashed = hashlib.sha256()
    for name in sorted(places or weights):
        tensor = (places[name].get_tensor(name) if files else weights[name]).detach().cpu().contiguous()
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        hashed.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def _digest_of_images(dataset: Any) -> str:
    if hasattr(dataset, "pixel_fingerprint"):
        return str(dataset.pixel_fingerprint())
    hashed = hashlib.sha256()
    for index in range(len(dataset)):
        pixels = np.ascontiguousarray(np.asarray(dataset[index]["image"]))
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


def _short(value: Any) -> str:
    """Shorten digests to their first digits."""
    if isinstance(value, list):
        return "[" + ", ".join(_short(entry) for entry in value) + "]"
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else str(value)
