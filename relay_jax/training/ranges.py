"""The ranges of the numbers in a training config, and the check of a value's range."""

import math
import operator
from typing import Any, NamedTuple

from relay_jax import config as configs


class Range(NamedTuple):
    """The finite values that a numeric field can have."""

    minimum: float
    maximum: float = math.inf
    above: bool = False  # the minimum itself is excluded
    below: bool = False  # the maximum itself is excluded


# Shares of a whole include 1; fractions are below it.
COUNT, SIZE, SHARE, FACTOR = Range(1), Range(0), Range(0, 1), Range(0, above=True)
FRACTION, SEED = Range(0, 1, below=True), Range(0, configs.MAX_SEED)
RANGES = {
    "seed": SEED,
    "num_steps": COUNT,
    "log_every_steps": COUNT,
    "keep_checkpoints": COUNT,
    "checkpoint_every_seconds": SIZE,
    "model.num_layers": COUNT,
    "model.dim": COUNT,
    "model.num_heads": COUNT,
    "model.num_kv_heads": SIZE,
    "model.head_dim": SIZE,
    "model.mlp_dim": COUNT,
    "model.norm_epsilon": SIZE,
    "model.dropout": FRACTION,
    "model.num_numbers": COUNT,
    "model.text_vocab_size": SIZE,
    "model.max_difference": COUNT,
    "model.position.rope_base": FACTOR,
    "model.position.rope_factor": FACTOR,
    "model.position.rope_slow": FACTOR,
    "model.position.rope_fast": FACTOR,
    "model.position.rope_length": COUNT,
    "model.position.window": SIZE,
    "model.position.max_distance": COUNT,
    "model.position.slope_reach": SIZE,
    "model.position.reference_length": Range(2),  # its logarithm divides
    "optimizer.learning_rate": SIZE,
    "optimizer.warmup_share": SHARE,
    "optimizer.constant_share": SHARE,
    "optimizer.average_share": SHARE,
    "optimizer.weight_decay": SIZE,
    "optimizer.b2": FRACTION,
    "optimizer.clip_norm": FACTOR,
    "loss.answer_weight": SIZE,
    "loss.round_weight": SIZE,
    "loss.value_gap_prob": SHARE,
    "loss.forcing_start": SHARE,
    "loss.forcing_end": SHARE,
    "data.batch_size": COUNT,
    "data.num_workers": SIZE,
    "data.accumulate": COUNT,
    "evaluation.every_steps": COUNT,
    "evaluation.during": COUNT,
    "evaluation.final": COUNT,
    "evaluation.batch_size": COUNT,
    "evaluation.context": COUNT,
}
TASK_RANGES = {  # of mappings: each of their values
    "loss.task_weights": SIZE,
    "loss.max_value_offset": SIZE,
    "evaluation.step": COUNT,
}
BUCKET_RANGES = {"max_rounds": SIZE, "sampled_rounds": SIZE}


def check_ranges(config: Any, ranges: dict[str, Range], where: str = "") -> None:
    """Checks the ranges of some fields of a config.

    Raises:
      ValueError: a value is out of its range; the message names the first one.
    """
    for name, each in ranges.items():
        check_range(where + name, operator.attrgetter(name)(config), each)


def check_range(name: str, value: Any, wanted: Range) -> None:
    """Checks that a number is in its range.

    Raises:
      ValueError: it is not.
    """
    minimum, maximum, above, below = wanted
    low = value <= minimum if above else value < minimum
    high = value >= maximum if below else value > maximum
    if low or high or not math.isfinite(value):
        expected = (
            f"{minimum} to {maximum}" if maximum < math.inf else f"{minimum} or more"
        )
        expected = f"above {minimum}" if above else expected
        expected = f"at least {minimum} and below {maximum}" if below else expected
        raise ValueError(f"{name} must be {expected}, got {value}")
