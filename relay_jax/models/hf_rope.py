"""RoPE in a config.json: where its settings stand, and which of them win.

    rope_parameters   all settings, of transformers 5
    rope_scaling      those of scaling, of earlier versions
    rope_theta        the base, of earlier versions

Where a config has several of them, they are read as transformers reads them:
`rope_scaling` replaces `rope_parameters`, its base included, and `rope_theta` is the base
of settings that have none. A warning names what is not used.
"""

import math
from typing import Any

from absl import logging

from relay_jax.config import PositionConfig

# RoPE type -> its keys -> fields of `PositionConfig`.
FIELDS = {
    "default": {},
    "linear": {"factor": "rope_factor"},
    "llama3": {
        "factor": "rope_factor",
        "low_freq_factor": "rope_slow",
        "high_freq_factor": "rope_fast",
        "original_max_position_embeddings": "rope_length",
    },
}
BASE = 10_000.0  # default
LENGTH = "original_max_position_embeddings"


def find(values: dict[str, Any], file: str) -> dict[str, Any]:
    """RoPE's settings in a config.json, with their base and type.

    Args:
      file: where they are from, for messages.

    Raises:
      ValueError: they are no dict.
    """
    base = values.get("rope_theta") or BASE
    scaling, parameters = (
        _complete(values.get(key), base, file)
        for key in ("rope_scaling", "rope_parameters")
    )
    if scaling and parameters and scaling != parameters:
        logging.warning(
            "%s: rope_scaling and rope_parameters differ; as in transformers, %s is used, "
            "not %s; remove one of them",
            *(file, scaling, parameters),
        )
    rope = scaling or parameters or {"rope_theta": base}
    _warn_of_other(values, "rope_theta", rope["rope_theta"], file)
    if rope.get("rope_type") == "llama3" and LENGTH in values:
        _warn_of_other(rope, LENGTH, values[LENGTH], file)
        rope[LENGTH] = values[LENGTH]
    return rope


def parse(rope: dict[str, Any], file: str) -> dict[str, Any]:
    """RoPE's settings, from `find`, as fields of `PositionConfig`.

    Raises:
      ValueError: the type is not supported; a setting is missing or out of range.
    """
    kind = rope.get("rope_type", "default")
    if kind not in list(FIELDS):
        raise ValueError(
            f"{file}: the RoPE type {kind!r} is not supported; supported are "
            f"{', '.join(FIELDS)}"
        )
    missing = sorted(set(FIELDS[kind]) - set(rope))
    if missing:
        raise ValueError(f"{file}: RoPE of type {kind!r} has no {missing[0]!r}")
    fields = {
        ours: positive(rope, theirs, file) for theirs, ours in FIELDS[kind].items()
    }
    if kind == "llama3" and fields["rope_slow"] >= fields["rope_fast"]:
        raise ValueError(
            f"{file}: RoPE's low_freq_factor must be below its high_freq_factor, got "
            f"{fields['rope_slow']} and {fields['rope_fast']}"
        )
    scaling = {} if kind == "default" else {"rope_scaling": kind}
    return {"rope_base": positive(rope, "rope_theta", file)} | scaling | fields


def to_json(position: PositionConfig) -> dict[str, Any] | None:
    """The `rope_scaling` of a config.json."""
    if position.rope_scaling == "none":
        return None
    fields = FIELDS[position.rope_scaling].items()
    scaling = {theirs: getattr(position, ours) for theirs, ours in fields}
    return {"rope_type": position.rope_scaling} | scaling


def context_factor(position: PositionConfig) -> float:
    """The context length over `max_position_embeddings`, which is the length before
    stretching for linear RoPE scaling, but the length after it for llama3's."""
    return position.rope_factor if position.rope_scaling == "linear" else 1.0


def positive(
    values: dict[str, Any], key: str, file: str, default: Any = None
) -> int | float:
    """A number above 0. Raises ValueError if it is something else."""
    found = values.get(key, default)
    if type(found) not in (int, float) or not 0 < found < math.inf:
        raise ValueError(f"{file}: {key} must be a number above 0, got {found!r}")
    return found


def _complete(rope: Any, base: Any, file: str) -> dict[str, Any]:
    """Settings with a type and a base; {} stays empty."""
    is_dict = isinstance(rope or {}, dict)
    if not is_dict:
        raise ValueError(f"{file}: the settings of RoPE must be a dict, got {rope!r}")
    if not rope:
        return {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    others = {key: value for key, value in rope.items() if key != "type"}
    return {"rope_theta": base} | others | {"rope_type": kind}


def _warn_of_other(values: dict[str, Any], key: str, used: Any, file: str) -> None:
    if values.get(key, used) not in (None, used):
        logging.warning(
            "%s: %s is %r in one place and %r in another; as in transformers, %r is used",
            *(file, key, values[key], used, used),
        )
