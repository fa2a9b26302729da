"""Times of decode steps: measured once for each setting and cached in a file.

    FILE    {"format": 4, "entries": {KEY: {"setting": ..., "seconds": {"0": ..., ...}}}}

A setting is everything that a time mainly depends on except the size of the draft tree;
KEY is its hash. Seconds are listed by the number of nodes of the draft tree; -1 is the
draft alone (`rest/autotune.py`).
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from relay_jax import aliases, config_io, files
from relay_jax.config import DraftConfig, ModelConfig, SamplingConfig
from relay_jax.rest import index as indexes

FORMAT = 4


def step_seconds(
    measure: Callable[[list[int]], dict[int, float]],
    sizes: list[int],
    setting: dict[str, Any],
    file: epath.PathLike,
) -> dict[int, float]:
    """Seconds of a decode step by tree size, from the cache or measured and cached.

    A damaged or foreign file is replaced; a file that cannot be written is ignored.
    Several processes measure together and cache nothing.

    Args:
      measure: returns the seconds of a step for each of some tree sizes.
      sizes: numbers of nodes of the draft tree.
      setting: everything else that the times depend on (`describe_setting`).
      file: the cache.
    """
    if jax.process_count() > 1:  # all must measure, and choose by the same times
        measured = measure(sizes)
        local = np.array([measured[size] for size in sizes])
        return dict(zip(sizes, multihost_utils.broadcast_one_to_all(local).tolist()))
    setting = json.loads(json.dumps(setting))
    key = _hash_setting(setting)
    cached = _cached_seconds(_read_entries(file).get(key), setting, sizes)
    if cached:
        return cached
    seconds = measure(sizes)
    entry = {"setting": setting, "seconds": {str(c): x for c, x in seconds.items()}}
    try:
        epath.Path(file).parent.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, "entries": _read_entries(file) | {key: entry}}
        files.write_json(file, content)
    except OSError:
        pass  # without a writable home, times are only measured again
    return seconds


def describe_setting(
    model: ModelConfig,
    draft: DraftConfig,
    sampling: SamplingConfig,
    index: Any,
    batch_size: int,
    mesh: dict[str, int] | None = None,
) -> dict[str, Any]:
    """Everything that the time of a step depends on except the size of the draft tree.

    The length of the texts is left out: longer ones slow steps of all sizes, and measuring
    again for each would cost more than it gains.

    Args:
      index: what is searched (`rest.index`), or None.
      mesh: the axes of the mesh over which the parameters are sharded.
    """
    cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    return {
        "model": config_io.to_dict(model),
        "draft": config_io.to_dict(dataclasses.replace(draft, num_draft=1)),
        "sampling": config_io.to_dict(sampling),
        "index": indexes.signature(index),
        "batch_size": batch_size,
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "mesh": mesh or {},
        "cores": len(cores),
        "jax": jax.__version__,
    }


def default_file() -> epath.Path:
    """`tree_sizes.json` in $RELAY_JAX_CACHE, by default in ~/.cache/relay_jax."""
    folder = os.environ.get("RELAY_JAX_CACHE") or "~/.cache/relay_jax"
    return epath.Path(folder).expanduser() / "tree_sizes.json"


def _hash_setting(setting: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(setting, sort_keys=True).encode()).hexdigest()[:16]


def _read_entries(file: epath.PathLike) -> dict[str, Any]:
    """The entries of a cache by their keys; none if the file cannot be used."""
    try:
        content = json.loads(epath.Path(file).read_text())
        version, entries = content["format"], content["entries"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    if not isinstance(entries, dict):
        return {}
    if version not in (*aliases.STEP_TIME_FORMATS, FORMAT):
        return {}
    upgraded = dict(_upgrade_entries(entries))
    return upgraded | (entries if version == FORMAT else {})


def _upgrade_entries(entries: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The entries of earlier versions as this one writes them, by their keys."""
    for old in entries.values():
        try:
            entry = aliases.upgrade_step_times(old)
            setting = entry["setting"]
            configs = {
                "model": ModelConfig,
                "draft": DraftConfig,
                "sampling": SamplingConfig,
            }
            for name, cls in configs.items():
                # A field that did not exist yet had what is now its default.
                values = config_io.complete(cls, setting[name])
                setting[name] = json.loads(json.dumps(values))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue  # damaged, or a setting that has been removed
        yield _hash_setting(setting), entry


def _cached_seconds(
    entry: Any, setting: dict[str, Any], sizes: list[int]
) -> dict[int, float]:
    """The times of an entry; {} if they are for another setting or other sizes."""
    if not isinstance(entry, dict) or entry.get("setting") != setting:
        return {}
    seconds = entry.get("seconds")
    if not isinstance(seconds, dict) or set(seconds) != {str(size) for size in sizes}:
        return {}
    if not all(isinstance(x, float) and 0 < x < float("inf") for x in seconds.values()):
        return {}
    return {size: seconds[str(size)] for size in sizes}
