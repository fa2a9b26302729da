"""Names of earlier versions and what they are called now: the only file that knows both.

Run directories, datastores, records and step-time caches of an earlier version still
open: their keys and values are translated here as they are read. Nothing in memory and
nothing that is written uses an old name.
"""

from collections.abc import Mapping
from typing import Any

MODEL_KEYS = {"vocab_size": "text_vocab_size"}
CONFIG_KEYS = {
    # model
    "loop_input": "input_injection",
    "tied_words": "tie_embeddings",
    # loss
    "max_shift": "max_value_offset",
    "gap_share": "value_gap_prob",
    # data
    "most_rounds": "max_rounds",
    "drawn_rounds": "sampled_rounds",
    # options of tasks
    "lean": "right_heavy",
    # chains
    "fewer": "allow_fewer",
    # drafters
    "fading": "depth_decay",
    "num_followers": "num_candidates",
}
# Removed settings, with the only value that means the same as their absence.
REMOVED_KEYS = {"num_examples": 0, "order": "leftmost", "confidence": 0.9}
# Removed values.
REMOVED_VALUES = {
    "input_injection": ("problem",),
    "scheme": ("none",),
    "filter": ("confidence",),
}
# Mappings whose keys are names that users choose, not settings.
USER_KEYS = frozenset(
    ("buckets", "task_weights", "max_value_offset", "lengths", "step", "counts")
) | {"runs", "chains"}

DRAFTERS = {
    "context": "prompt_lookup",
    "recycle": "token_recycling",
    "guess": "looped",
}
RECORD_KEYS = {
    "M_of_answers": "M_mean_of_answers",
    "above": "gain_over",
    "bandwidth_gigabytes_a_second": "bandwidth_gigabytes_per_second",
    "batches_a_second": "batches_per_second",
    "bytes_a_token": "bytes_per_token",
    "chosen": "autotuned",
    "cpu_ms_a_step": "cpu_ms_per_step",
    "drawn_rounds": "sampled_rounds",
    "examples_a_cpu_second": "examples_per_cpu_second",
    "examples_a_second": "examples_per_second",
    "guess_answers": "looped_answers",
    "held": "cached_tokens",
    "live_tokens": "recent_tokens",
    "ms_a_step": "ms_per_step",
    "ms_a_token": "ms_per_token",
    "ms_least": "ms_min",
    "ms_most": "ms_max",
    "nodes_a_step": "nodes_per_step",
    "peer": "baseline",
    "place": "position",
    "plain_steps": "times_plain_step",
    "speed_up_in_all": "overall_speed_up",
    "speed_up_least": "speed_up_min",
    "speed_up_most": "speed_up_max",
    "times_jax_least": "times_jax_min",
    "times_jax_most": "times_jax_max",
    "tokens_a_cpu_second": "tokens_per_cpu_second",
    "tokens_a_second": "tokens_per_second",
    "trained_tokens_a_second": "trained_tokens_per_second",
    "what": "note",
}
# Config files (experiments/configs), as commands of earlier versions name them.
CONFIG_FILES = {
    "code_lm_gpu.py": "code_lm.py:gpu",
    "far.py": "length_extrapolation.py",
    "quickstart_ed.py": "quickstart.py:edit_distance",
    "quickstart_lis.py": "quickstart.py:lis",
    "quickstart_multitask.py": "quickstart.py:multitask",
    "quickstart_self_made.py": "quickstart.py:self_made",
    "small.py": "reduced.py",
    "paper_small.py": "reduced.py",
}
RUNS = {"drawn_rounds": "sampled_rounds"}  # of experiments/configs/ablation.py
# Values of records by their keys.
RECORD_VALUES = {"drafter": DRAFTERS, "step": DRAFTERS, "run": RUNS, "model": RUNS}

# Formats of datastores (`rest.datastore.FORMAT`) that are still read, and the names
# that their files had.
DATASTORE_FORMATS = (2,)
DATASTORE_FILES = {"order": "suffix_array"}
# Formats of step-time caches (`rest.step_times.FORMAT`) that are still read.
STEP_TIME_FORMATS = (2, 3)
SETTING_KEYS = {"spread": "mesh"}
REMOVED_SETTING_KEYS = ("room", "cache_length")
CHECKSUM_KEYS = {"size": "num_bytes", "sampled": "sampled_sha256"}
RECIPES = {"far": "length_extrapolation"}  # of experiments.reproduce
# Other experiments took their place: their work directories cannot be continued.
REPLACED_RECIPES = {"small": "reduced", "paper_small": "reduced"}


class RemovedSetting(ValueError):
    """A config of an earlier version has a setting that this one does not support."""


def upgrade_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a run or chains directory in the fields of this version.

    Raises:
      RemovedSetting: it uses a setting that has been removed.
    """
    upgraded = _upgrade_settings(values)
    data = upgraded.get("data")
    if isinstance(data, dict) and "num_devices" in data:  # before there was a mesh
        devices = data.pop("num_devices")
        upgraded = {"mesh": {"data": devices}} | upgraded
    if isinstance(upgraded.get("model"), dict):
        upgraded["model"] = upgrade_model(upgraded["model"])
    return upgraded


def upgrade_model(values: Mapping[str, Any]) -> dict[str, Any]:
    """A model's config in the fields of this version.

    Raises:
      RemovedSetting: it uses a setting that has been removed.
    """
    upgraded = _upgrade_settings(values)
    return {MODEL_KEYS.get(key, key): value for key, value in upgraded.items()}


def upgrade_recipe(name: str) -> str:
    """The name in this version of a work directory's recipe."""
    return RECIPES.get(name, name)


def old_dataset_name(name: str) -> str:
    """The name that an earlier version gave to a TFDS dataset."""
    return name.replace("_right_heavy_", "_lean_")


def upgrade_record(line: Mapping[str, Any]) -> dict[str, Any]:
    """A record in the keys and values of this version."""
    upgraded = {}
    for key, value in line.items():
        key = RECORD_KEYS.get(key, key)
        if isinstance(value, str):
            value = RECORD_VALUES.get(key, {}).get(value, value)
        upgraded[key] = value
    if gains := upgraded.get("gain_over"):  # by drafter and tree size, "rest 64"
        upgraded["gain_over"] = {_drafter_in(key): gain for key, gain in gains.items()}
    if isinstance(turns := upgraded.get("turns"), list):  # of a question
        upgraded["turns"] = [[upgrade_record(each) for each in turn] for turn in turns]
    return upgraded


def upgrade_datastore(content: dict[str, Any], version: int) -> dict[str, Any]:
    """The content of a datastore's metadata in the keys of this version.

    Args:
      version: the format that it was written in.
    """
    if version not in DATASTORE_FORMATS:
        return content
    shards = [
        dict(zip(("tokens", "suffix_array"), map(_upgrade_checksum, pair), strict=True))
        for pair in content["shards"]
    ]
    return content | {"shards": shards}


def upgrade_step_times(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of a step-time cache of an earlier format in the keys of this version.

    Raises:
      ValueError: it uses a setting that has been removed.
      KeyError, TypeError, AttributeError: it is damaged.
    """
    old = entry["setting"] if "setting" in entry else entry["about"]
    setting = {
        SETTING_KEYS.get(key, key): value
        for key, value in old.items()
        if key not in REMOVED_SETTING_KEYS
    }
    draft = _upgrade_settings(setting["draft"])
    draft["drafter"] = DRAFTERS.get(draft["drafter"], draft["drafter"])
    setting |= {"model": upgrade_model(setting["model"]), "draft": draft}
    return {"setting": setting, "seconds": entry["seconds"]}


def _upgrade_checksum(values: Mapping[str, Any]) -> dict[str, Any]:
    return {CHECKSUM_KEYS.get(key, key): value for key, value in values.items()}


def _drafter_in(name: str) -> str:
    drafter, *size = name.split(" ")
    return " ".join([DRAFTERS.get(drafter, drafter), *size])


def _upgrade_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    upgraded = {}
    for old_key, value in values.items():
        key = CONFIG_KEYS.get(old_key, old_key)
        is_removed = key in REMOVED_KEYS and value != REMOVED_KEYS[key]
        if is_removed or value in REMOVED_VALUES.get(key, ()):
            raise RemovedSetting(
                f"the setting {old_key}={value!r} is of an earlier version and has been "
                "removed; check out that version to use this run"
            )
        if key not in REMOVED_KEYS:
            upgraded[key] = _upgrade_value(key, value)
    return upgraded


def _upgrade_value(key: str, value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if key in USER_KEYS:
        return {name: _upgrade_value("", each) for name, each in value.items()}
    return _upgrade_settings(value)
