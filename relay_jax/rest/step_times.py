"""Times of decode steps: measured once for a setting, and kept in a file.

    FILE    {"format": 2, "entries": {KEY: {"about": ..., "seconds": {"0": ..., "8": ...}}}}

KEY is a hash of `about`, which is all that a time depends on; seconds stand by the size
of the draft tree.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from relay_jax import config_io, files
from relay_jax.config import DraftConfig, ModelConfig, SamplingConfig
from relay_jax.rest.index import describe as describe_index

FORMAT = 2


def step_seconds(
    measure: Callable[[list[int]], dict[int, float]],
    sizes: list[int],
    about: dict[str, Any],
    file: epath.PathLike,
) -> dict[int, float]:
    """Seconds of a step by tree size: from the file, or measured and kept there.

    A damaged or foreign file is written anew; one that cannot be written is done
    without. Several processes measure together, and keep nothing.

    Args:
      about: all that the times depend on, see `describe`.
    """
    if jax.process_count() > 1:  # all must measure, and choose by the same times
        spent = measure(sizes)
        told = np.array([spent[size] for size in sizes])
        return dict(zip(sizes, multihost_utils.broadcast_one_to_all(told).tolist()))
    about = json.loads(json.dumps(about))
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    entries = _read_entries(file)
    known = _known_seconds(entries.get(key), about, sizes)
    if known:
        return known
    seconds = measure(sizes)
    entry = {"about": about, "seconds": {str(c): x for c, x in seconds.items()}}
    try:
        epath.Path(file).parent.mkdir(parents=True, exist_ok=True)
        content = {"format": FORMAT, "entries": _read_entries(file) | {key: entry}}
        files.write_json(file, content)
    except OSError:
        pass  # a home that cannot be written only costs measuring again
    return seconds


def describe(
    model: ModelConfig,
    draft: DraftConfig,
    sampling: SamplingConfig,
    index: Any,
    batch_size: int,
    room: int,
    spread: dict[str, int] | None = None,
) -> dict[str, Any]:
    """All that the time of a step depends on, but for the size of the tree.

    Args:
      room: of the cache, in tokens; counted in powers of two.
      spread: the mesh on which the parameters lie.
    """
    cores = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)
    return {
        "model": config_io.to_dict(model),
        "draft": config_io.to_dict(dataclasses.replace(draft, num_draft=1)),
        "sampling": config_io.to_dict(sampling),
        "index": describe_index(index),
        "batch_size": batch_size,
        "room": 1 << (room - 1).bit_length(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "spread": spread or {},
        "cores": len(cores),
        "jax": jax.__version__,
    }


def default_file() -> epath.Path:
    """`tree_sizes.json` in $RELAY_JAX_CACHE, by default ~/.cache/relay_jax."""
    folder = os.environ.get("RELAY_JAX_CACHE") or "~/.cache/relay_jax"
    return epath.Path(folder).expanduser() / "tree_sizes.json"


def _read_entries(file: epath.PathLike) -> dict[str, Any]:
    try:
        content = json.loads(epath.Path(file).read_text())
        entries = content["entries"] if content["format"] == FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _known_seconds(entry: Any, about: dict, sizes: list[int]) -> dict[int, float]:
    """The times of an entry; none if it is not one of these settings and sizes."""
    if not isinstance(entry, dict) or entry.get("about") != about:
        return {}
    held = entry.get("seconds")
    if not isinstance(held, dict) or set(held) != {str(size) for size in sizes}:
        return {}
    if not all(isinstance(x, float) and 0 < x < float("inf") for x in held.values()):
        return {}
    return {size: held[str(size)] for size in sizes}
