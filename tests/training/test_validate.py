"""Errors in a training config are reported before any work, by name."""

import math

import pytest

from experiments.configs import tiny
from relay_jax import config as configs
from relay_jax import config_io
from relay_jax.training import loop
from relay_jax.training.validate import check

LIS = {"task": "lis", "lengths": (1, 40), "options": {"group": 40}}
TEXT = {"task": "text", "lengths": (1, 8), "kind": "text", "path": "text.npy"}
DECODER = {"kind": "decoder", "text_vocab_size": 20}


def config(*changes):
    values = tiny.get_config().to_dict()
    for path, value in changes:
        *outer, last = path.split(".")
        inner = values
        for name in outer:
            inner = inner[name]
        inner[last] = value
    return config_io.build(configs.TrainConfig, values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("model.num_kv_heads", 3),
            "model.num_heads (4) must be a multiple of model.num_kv_heads (3)",
        ),
        (
            ("model.input_injection", "hidden"),
            (
                "model.differences needs kind='looped' and input_injection='feedback', got "
                "'looped' and 'hidden'"
            ),
        ),
        (
            ("model.text_vocab_size", 20),
            (
                "arithmetic: model.text_vocab_size is 20, so the model's vocabulary is for "
                "text, not for the tasks; set it to 0"
            ),
        ),
        (
            ("data.buckets", {"b": TEXT}, ("model", DECODER)),
            "arithmetic: model.text_vocab_size is 20, so the model's vocabulary is for text",
        ),
        (("model.num_heads", 0), "model.num_heads must be 1 or more, got 0"),
        (("model.dim", 0), "model.dim must be 1 or more, got 0"),
        (("model.mlp_dim", 0), "model.mlp_dim must be 1 or more, got 0"),
        (
            ("model.dropout", 1.0),
            "model.dropout must be at least 0 and below 1, got 1.0",
        ),
        (
            ("optimizer.b2", 1.0),
            "optimizer.b2 must be at least 0 and below 1, got 1.0",
        ),
        (
            ("model.position.reference_length", 1),
            "model.position.reference_length must be 2 or more, got 1",
        ),
        (
            ("model.position.slope_reach", -1),
            "model.position.slope_reach must be 0 or more, got -1",
        ),
        (
            ("data.buckets.arithmetic.max_rounds", -1),
            "data.buckets.arithmetic.max_rounds must be 0 or more, got -1",
        ),
        (
            ("loss.forcing_end", 0.5, ("data.buckets.arithmetic.sampled_rounds", 2)),
            "sampled_rounds trains rounds independently, each after true ones: it needs",
        ),
        (("seed", -1), "seed must be 0 to 4294967295, got -1"),
        (("seed", 2**32), "seed must be 0 to 4294967295, got 4294967296"),
        (
            ("optimizer.warmup_share", 3.0),
            "optimizer.warmup_share must be 0 to 1, got 3.0",
        ),
        (
            ("optimizer.average_share", 1.5),
            "optimizer.average_share must be 0 to 1, got 1.5",
        ),
        (
            ("optimizer.constant_share", 0.96),
            "warmup_share and constant_share are at most 1 together, got 0.05 and 0.96",
        ),
        (
            ("optimizer.learning_rate", -1e-3),
            "optimizer.learning_rate must be 0 or more, got -0.001",
        ),
        (
            ("optimizer.learning_rate", math.nan),
            "optimizer.learning_rate must be 0 or more, got nan",
        ),
        (("optimizer.clip_norm", 0.0), "optimizer.clip_norm must be above 0, got 0.0"),
        (("loss.forcing_start", 3.0), "loss.forcing_start must be 0 to 1, got 3.0"),
        (
            ("loss.max_value_offset", {"arithmetic": -2}),
            "loss.max_value_offset.arithmetic must be 0 or more, got -2",
        ),
        (
            ("model.position", {"directional_heads": True}, ("model.num_heads", 1)),
            "model.position.directional_heads needs an even model.num_heads, got 1: one",
        ),
        (
            ("model.position", {}, ("model.head_dim", 3)),
            "scheme='rope' rotates pairs of dimensions, but a head has 3; give an even",
        ),
        (("num_steps", 0), "num_steps must be 1 or more, got 0"),
        (("log_every_steps", 0), "log_every_steps must be 1 or more, got 0"),
        (
            ("evaluation.every_steps", 0),
            "evaluation.every_steps must be 1 or more, got 0",
        ),
        (
            ("evaluation.step", {"arithmetic": 0}),
            "evaluation.step.arithmetic must be 1 or more, got 0",
        ),
        (
            ("loss.task_weights", {"LIS": 5.0}),
            (
                "loss.task_weights names an unknown task 'LIS'; valid tasks: arithmetic, "
                "edit_distance, lis"
            ),
        ),
        (
            ("loss.value_gap_prob", 0.5),
            "loss.value_gap_prob is 0.5: it needs a loss.max_value_offset of lis alone, got {}",
        ),
        (
            ("loss.value_gap_prob", 0.5, ("loss.max_value_offset", {"arithmetic": 2})),
            "needs a loss.max_value_offset of lis alone, got {'arithmetic': 2}",
        ),
        (
            (
                *("loss.value_gap_prob", 0.5, ("loss.max_value_offset", {"lis": 2})),
                ("loss.forcing_end", 0.5),
            ),
            "(loss.forcing_start and loss.forcing_end 1), got 0.5; set it to 0",
        ),
        (
            ("loss.value_gap_prob", 0.5, ("loss.max_value_offset", {"lis": 2})),
            "is for LIS and a looped model with input_injection='feedback', got arithmetic",
        ),
        (
            ("model.position.slope_reach", 5),
            "model.position.slope_reach is 5, but there are no slopes; set distance_slo",
        ),
        (
            (
                *("data.buckets.arithmetic.max_rounds", 1),
                *(("model.kind", "decoder"), ("model.input_injection", "hidden")),
            ),
            "max_rounds is 1, but a decoder learns whole chains; set it to 0",
        ),
        (
            ("loss.max_value_offset", {"liss": 3}),
            (
                "loss.max_value_offset names an unknown task 'liss'; valid tasks: arithmetic, "
                "edit_distance, lis"
            ),
        ),
        (
            ("evaluation.options", {"sums": {}}),
            (
                "evaluation.options names an unknown task 'sums'; valid tasks: arithmetic, "
                "edit_distance, lis"
            ),
        ),
        (
            ("evaluation.lengths", {"lis": (1, 130)}),
            "lis: length 130 is out of range: with smallest",
        ),
        (
            ("data.buckets", {"b": LIS}),
            "LongestIncreasingSubsequence(group=40, ",
        ),
        (
            ("init_from", "nowhere"),
            "is not a run directory: it has no config.json; train one with",
        ),
    ],
)
def test_messages(change, message, tmp_path):
    changes = [change[:2], *change[2:]]
    if change[0] == "model.input_injection":
        changes.append(("model.differences", True))
    if "lis" in str(change[1]).lower() and "shift" not in change[0]:
        changes.append(("model.num_numbers", 300))
    with pytest.raises(ValueError) as error:
        check(config(*changes), tmp_path / "run")
    assert message in str(error.value)


def test_a_refused_run_leaves_its_directory_to_the_corrected_one(tmp_path):
    few = (("num_steps", 1), ("evaluation.final", 4), ("data.batch_size", 4))
    with pytest.raises(ValueError):
        loop.train(config(*few, ("init_from", "nowhere")), tmp_path / "run")
    assert loop.train(config(*few), tmp_path / "run")["steps"] == 1


def test_value_offsets_need_round_feedback(tmp_path):
    shift = ("loss.max_value_offset", {"arithmetic": 2})
    check(config(shift, ("model.num_numbers", 12)), tmp_path)
    hidden = config(shift, ("model.input_injection", "hidden"))
    with pytest.raises(
        ValueError, match=r"max_value_offset.arithmetic is 2, but only a loop"
    ):
        check(hidden, tmp_path)


def test_the_parameters_to_start_from_must_fit(tmp_path):
    few = (("num_steps", 2), ("evaluation.final", 4), ("data.batch_size", 4))
    loop.train(config(*few), tmp_path / "first")
    start = ("init_from", str(tmp_path / "first"))
    loop.train(config(*few, start), tmp_path / "second")
    wider = config(*few, start, ("model.mlp_dim", 48))
    with pytest.raises(
        ValueError, match=r"init_from: the parameter .*feed_forward.* has the"
    ):
        loop.train(wider, tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_a_resumed_run_does_not_need_its_initial_parameters(tmp_path):
    few = (("num_steps", 2), ("evaluation.final", 4), ("data.batch_size", 4))
    loop.train(config(*few), tmp_path / "first")
    second = config(*few, ("init_from", "first"))
    done = loop.train(second, tmp_path / "second")
    (tmp_path / "second" / "summary.json").unlink()
    (tmp_path / "first").rename(tmp_path / "elsewhere")
    again = loop.train(second, tmp_path / "second")
    assert again["params_sha256"] == done["params_sha256"]


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            [("data.batch_size", 6), ("mesh.data", 2), ("mesh.fsdp", 2)],
            (
                "data.batch_size (6) does not divide over 4 devices; take a multiple of "
                "4, or set mesh.data, mesh.fsdp or data.accumulate"
            ),
        ),
        (
            [("data.batch_size", 6), ("mesh.data", 2), ("data.accumulate", 2)],
            "(6) does not divide over 2 devices in 2 parts; take a multiple of 4",
        ),
        ([("data.accumulate", 0)], "data.accumulate must be 1 or more, got 0"),
        (
            [("mesh.data", 1000)],
            "a mesh of 1000 x 1 x 1 (data, fsdp, tensor) does not fit the 8 devices",
        ),
    ],
)
def test_a_batch_divides_over_the_devices(changes, message, tmp_path):
    with pytest.raises(ValueError) as error:
        check(config(*changes), tmp_path)
    assert message in str(error.value)
