"""Names of earlier versions are understood, in every kind of file."""

import dataclasses
import json
import pathlib

import pytest

from relay_jax import aliases, files
from relay_jax.config import BucketConfig, ChainsConfig, DraftConfig, TrainConfig
from relay_jax.config_io import build, to_dict
from relay_jax.tasks.arithmetic import Arithmetic

ROOT = pathlib.Path(__file__).parents[1]

OLD_CONFIG = {
    "model": {
        "vocab_size": 300,
        "tied_words": True,
        "loop_input": "feedback",
        "position": {"scheme": "relative_bias"},
    },
    "loss": {"max_shift": {"lis": 30}, "gap_share": 0.5, "task_weights": {"order": 2}},
    "data": {
        "num_devices": 2,
        "buckets": {
            "lean": {  # a name of the user's
                "task": "arithmetic",
                "lengths": [1, 4],
                "num_examples": 0,
                "most_rounds": 1,
                "drawn_rounds": 2,
                "options": {"lean": True, "order": "leftmost"},
            }
        },
    },
    "evaluation": {
        "step": {"fewer": 2},
        "options": {"arithmetic": {"lean": True, "order": "leftmost"}},
    },
}


def test_a_config_has_the_new_keys_and_the_users_names():
    config = build(TrainConfig, aliases.upgrade_config(OLD_CONFIG))
    assert config.model.text_vocab_size == 300 and config.model.tie_embeddings
    assert config.model.input_injection == "feedback"
    assert config.loss.max_value_offset == {"lis": 30}
    assert config.loss.value_gap_prob == 0.5
    assert config.loss.task_weights == {"order": 2.0}
    assert config.mesh.data == 2
    bucket = config.data.buckets["lean"]
    assert (bucket.max_rounds, bucket.sampled_rounds) == (1, 2)
    assert bucket.options == {"right_heavy": True}
    assert config.evaluation.options == {"arithmetic": {"right_heavy": True}}
    assert config.evaluation.step == {"fewer": 2}


@pytest.mark.parametrize("cls", [TrainConfig, DraftConfig])
def test_a_config_of_this_version_is_unchanged(cls):
    values = to_dict(cls())
    assert aliases.upgrade_config(values) == values


def test_a_chains_config_has_the_new_keys():
    old = {"task": "lis", "model": "looped", "counts": {"5": 10}, "options": {}}
    old |= {"fewer": True, "confidence": 0.9, "filter": "oracle"}
    config = build(ChainsConfig, aliases.upgrade_config(old))
    assert config.allow_fewer and config.filter == "oracle"


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("num_examples=8", {"data": {"buckets": {"a": {"num_examples": 8}}}}),
        (
            "order='grown'",
            {"data": {"buckets": {"a": {"options": {"order": "grown"}}}}},
        ),
        ("order='grown'", {"evaluation": {"options": {"lis": {"order": "grown"}}}}),
        ("loop_input='problem'", {"model": {"loop_input": "problem"}}),
        ("scheme='none'", {"model": {"position": {"scheme": "none"}}}),
        ("filter='confidence'", {"filter": "confidence", "confidence": 0.9}),
        ("confidence=0.5", {"filter": "none", "confidence": 0.5}),
    ],
)
def test_a_removed_setting_is_named(setting, values):
    with pytest.raises(ValueError) as error:
        aliases.upgrade_config(values)
    assert str(error.value) == (
        f"the setting {setting} is of an earlier version and has been removed; "
        "check out that version to use this run"
    )


def test_records_are_read_with_the_new_names(tmp_path):
    file = tmp_path / "records.jsonl"
    old = [
        {"drafter": "context", "chosen": True, "ms_a_step": 2.5, "speed_up_least": 1},
        {"drafter": "mixed", "above": {"rest 64": [1, 0, 2], "guess 8": [3, 2, 4]}},
        {"metric": "hit_accuracy", "round": 0, "place": 3, "model": "drawn_rounds"},
        {"question": "a", "turns": [[{"drafter": "recycle", "ms_a_token": 1.5}]]},
        {"step": 200, "loss": 0.25, "command": "python --drafter=context"},
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in old))
    assert list(files.read_lines(file)) == [
        {
            "drafter": "prompt_lookup",
            "autotuned": True,
            "ms_per_step": 2.5,
            "speed_up_min": 1,
        },
        {
            "drafter": "mixed",
            "gain_over": {"rest 64": [1, 0, 2], "looped 8": [3, 2, 4]},
        },
        {
            "metric": "hit_accuracy",
            "round": 0,
            "position": 3,
            "model": "sampled_rounds",
        },
        {
            "question": "a",
            "turns": [[{"drafter": "token_recycling", "ms_per_token": 1.5}]],
        },
        old[-1],
    ]


def shipped_files(pattern):
    found = sorted((ROOT / "experiments").glob(pattern))
    assert found
    return found


def test_shipped_records_use_the_new_names():
    for file in shipped_files("results/*.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert list(files.read_lines(file)) == lines, file


def test_shipped_configs_use_the_new_names():
    for file in shipped_files("checkpoints/**/config.json"):
        values = json.loads(file.read_text())
        assert aliases.upgrade_config(values) == values, file
        build(TrainConfig, values)


def test_every_new_name_of_a_setting_exists():
    """An alias of a field that has been renamed again would lead nowhere."""
    fields = set()

    def collect(cls):
        for field in dataclasses.fields(cls):
            fields.add(field.name)
            if dataclasses.is_dataclass(field.type):
                collect(field.type)

    for cls in (TrainConfig, BucketConfig, ChainsConfig, DraftConfig, Arithmetic):
        collect(cls)
    assert {*aliases.CONFIG_KEYS.values(), *aliases.MODEL_KEYS.values()} <= fields
