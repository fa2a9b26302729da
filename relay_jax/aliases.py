"""Names of earlier versions and what they are called now: the only place that knows.

Run directories, datastores, records and step-time caches that an earlier version wrote
still open: their keys and values are translated here as they are read. Nothing in memory
and nothing that is written uses an old name.
"""

from collections.abc import Mapping
from typing import Any

CONFIG_KEYS = {
    "loop_input": "input_injection",
    "tied_words": "tie_embeddings",
    "most_rounds": "max_rounds",
    "drawn_rounds": "sampled_rounds",
    "max_shift": "max_value_offset",
    "gap_share": "value_gap_prob",
    "fewer": "allow_fewer",
    "lean": "right_heavy",
    "fading": "depth_decay",
    "num_followers": "num_candidates",
}
# Keys that are gone, with the only value that an old config may have had.
REMOVED_KEYS = {"num_examples": 0, "order": "leftmost"}
# Values that are gone, by the key's present name.
REMOVED_VALUES = {"scheme": ("none",), "input_injection": ("problem",)}
DRAFTERS = {
    "context": "prompt_lookup",
    "recycle": "token_recycling",
    "guess": "looped",
}
RECORD_KEYS = {
    "speed_up_least": "speed_up_min",
    "speed_up_most": "speed_up_max",
}
RUNS = {"far": "length_extrapolation"}


def upgrade_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run directory in the fields of this version.

    Raises:
      ValueError: it uses a setting that has been removed.
    """
    upgraded = _rename(values)
    data, model = upgraded.get("data"), upgraded.get("model")
    if isinstance(data, dict) and "num_devices" in data:  # before there was a mesh
        devices = data.pop("num_devices")
        upgraded = {"mesh": {"data": devices}} | upgraded
    if isinstance(model, dict) and "vocab_size" in model:
        size = model.pop("vocab_size")
        model.setdefault("text_vocab_size", size)
    return upgraded


def upgrade_record(line: Mapping[str, Any]) -> dict[str, Any]:
    """A record in the fields of this version."""
    renamed = {RECORD_KEYS.get(key, key): value for key, value in line.items()}
    if renamed.get("drafter") in DRAFTERS:
        renamed["drafter"] = DRAFTERS[renamed["drafter"]]
    return renamed


def _rename(values: Mapping[str, Any]) -> dict[str, Any]:
    renamed = {}
    for key, value in values.items():
        if key in REMOVED_KEYS:
            if value != REMOVED_KEYS[key]:
                raise _removed(key, value)
            continue
        new_key = CONFIG_KEYS.get(key, key)
        if value in REMOVED_VALUES.get(new_key, ()):
            raise _removed(key, value)
        renamed[new_key] = _rename(value) if isinstance(value, Mapping) else value
    return renamed


def _removed(key: str, value: Any) -> ValueError:
    return ValueError(
        f"the setting {key}={value!r} is of an earlier version and has been removed; "
        "check out that version to go on with this run"
    )
