"""Everything that can be wrong with a training config, found before any long work."""

import math
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from relay_jax import config as configs
from relay_jax.config import ModelConfig, TrainConfig
from relay_jax.data.alignment import right_align
from relay_jax.data.buckets import (
    Bucket,
    bucket_task,
    check_buckets,
    check_lengths,
    open_buckets,
    open_held_out,
)
from relay_jax.data.sources import sample_split
from relay_jax.models import export
from relay_jax.models.feedback import NUM_POINTERS
from relay_jax.models.sharding import check_batch, make_mesh
from relay_jax.tasks import TASKS, Task, make_task
from relay_jax.training import run_dir
from relay_jax.training.step import init_params


class Range(NamedTuple):
    """The finite values that a numeric field can have."""

    minimum: float
    maximum: float = math.inf
    above: bool = False  # the minimum itself is excluded
    below: bool = False  # the maximum itself is excluded


COUNT, SIZE, SHARE, FACTOR = Range(1), Range(0), Range(0, 1), Range(0, above=True)
PART, SEED = Range(0, 1, below=True), Range(0, configs.MAX_SEED)
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
    "model.dropout": PART,
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
    "optimizer.b2": PART,
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


def check(config: TrainConfig, workdir: epath.PathLike) -> None:
    """Raises ValueError at whatever is wrong with a config or its data, naming it."""
    check_config(config)
    check_devices(config)
    for bucket in open_buckets(config, workdir):
        if isinstance(bucket, Bucket) and config.model.uses_feedback:
            _check_marks(bucket)
    if config.evaluation.text:
        open_held_out(config, workdir)
    if config.init_from and not run_dir.has_checkpoint(workdir):
        run = configs.resolve(config.init_from, epath.Path(workdir))
        source = run_dir.read_config(run)
        if not (run_dir.has_checkpoint(run) or export.is_exported(run)):
            raise ValueError(
                f"init_from: {run} holds no checkpoint yet; train it first, with "
                f"python -m experiments.train --workdir={run} --config=..."
            )
        check_start(config, source)


def check_devices(config: TrainConfig) -> None:
    """Raises ValueError where the mesh does not fit the devices, or a batch the mesh."""
    mesh = make_mesh(config.mesh)
    check_batch(mesh, config.data.batch_size, config.data.accumulate)


def check_config(config: TrainConfig) -> None:
    """Raises ValueError at what is wrong wherever the run is to be: in seconds, and
    without a look at files or devices, which a stage may not have yet."""
    check_settings(config)
    check_buckets(config)
    _check_names(config, {bucket.task for bucket in config.data.buckets.values()})
    _check_gaps(config)
    for bucket in config.data.buckets.values():
        if bucket.kind != "text":
            _check_shift(bucket_task(bucket), bucket.lengths[1], config)
    for name, lengths in config.evaluation.lengths.items():
        task = make_task(name, config.evaluation.options.get(name, {}))
        check_lengths(task, lengths, config.model, "test")


def check_settings(config: TrainConfig) -> None:
    """Raises ValueError at what is wrong whatever the data."""
    check_ranges(config, RANGES)
    for name, each in TASK_RANGES.items():
        values = operator.attrgetter(name)(config)
        for task, value in values.items():
            check_range(f"{name}.{task}", value, each)
    for name, bucket in config.data.buckets.items():
        check_ranges(bucket, BUCKET_RANGES, f"data.buckets.{name}.")
    _check_model(config.model)
    _check_drawn(config)
    _check_max_rounds(config)
    shares = config.optimizer.warmup_share, config.optimizer.constant_share
    if sum(shares) > 1 + 1e-9:
        raise ValueError(
            "optimizer.warmup_share and constant_share are at most 1 together, got "
            f"{shares[0]} and {shares[1]}"
        )


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


def _check_model(model: ModelConfig) -> None:
    if not model.head_dim and model.dim % model.num_heads:
        raise ValueError(
            f"model.dim ({model.dim}) must be a multiple of model.num_heads "
            f"({model.num_heads})"
        )
    if model.num_kv_heads and model.num_heads % model.num_kv_heads:
        raise ValueError(
            f"model.num_heads ({model.num_heads}) must be a multiple of "
            f"model.num_kv_heads ({model.num_kv_heads})"
        )
    if model.position.scheme == "rope" and model.resolved_head_dim % 2:
        raise ValueError(
            f"model.position.scheme='rope' turns pairs of numbers, but a head has "
            f"{model.resolved_head_dim}; give an even model.dim / model.num_heads"
        )
    if model.position.slope_reach and not model.position.distance_slopes:
        raise ValueError(
            f"model.position.slope_reach is {model.position.slope_reach}, but there are "
            "no slopes; set distance_slopes=True, or slope_reach to 0"
        )
    if model.position.directional_heads and model.num_heads % 2:
        raise ValueError(
            "model.position.directional_heads needs an even model.num_heads, got "
            f"{model.num_heads}: one half looks left, the other right"
        )
    if model.feedback == "soft" and model.differences:
        raise ValueError(
            "model.differences needs model.feedback='discrete': a difference of two "
            "soft numbers is not defined"
        )
    for name, is_set in (
        ("differences", model.differences),
        ("feedback='soft'", model.feedback == "soft"),
    ):
        if is_set and not model.uses_feedback:
            raise ValueError(
                f"model.{name} needs kind='looped' and input_injection='feedback', got "
                f"{model.kind!r} and {model.input_injection!r}"
            )


def _check_drawn(config: TrainConfig) -> None:
    drawn = [n for n, b in config.data.buckets.items() if b.sampled_rounds]
    forcing = config.loss.forcing_start, config.loss.forcing_end
    if drawn and not (config.model.uses_feedback and forcing == (1, 1)):
        raise ValueError(
            f"data.buckets.{drawn[0]}.sampled_rounds trains rounds by themselves, after "
            "true ones: it needs kind='looped', input_injection='feedback' and loss."
            f"forcing_start and forcing_end 1, got {config.model.kind!r}, "
            f"{config.model.input_injection!r}, {forcing[0]} and {forcing[1]}"
        )


def _check_max_rounds(config: TrainConfig) -> None:
    for name, bucket in config.data.buckets.items():
        if bucket.max_rounds and config.model.kind != "looped":
            raise ValueError(
                f"data.buckets.{name}.max_rounds is {bucket.max_rounds}, but a decoder "
                "learns whole chains; set it to 0"
            )


def _check_names(config: TrainConfig, trained: set[str]) -> None:
    """Settings of a task must be of an existing one."""
    valid = sorted({*TASKS, *trained})
    for where, names in (
        ("loss.task_weights", config.loss.task_weights),
        ("loss.max_value_offset", config.loss.max_value_offset),
        ("evaluation.options", config.evaluation.options),
        ("evaluation.step", config.evaluation.step),
    ):
        for name in names:
            if name not in valid:
                raise ValueError(
                    f"{where} names an unknown task {name!r}; valid tasks: "
                    f"{', '.join(valid)}"
                )


def _check_shift(task: Task, longest: int, config: TrainConfig) -> None:
    shift, model = config.loss.max_value_offset.get(task.name, 0), config.model
    if not shift:
        return
    if not model.uses_feedback:
        raise ValueError(
            f"loss.max_value_offset.{task.name} is {shift}, but only a looped model "
            "with input_injection='feedback' can see from where a chain counts; set it to 0"
        )
    largest = task.max_number(longest)
    if largest + shift >= model.num_numbers:
        raise ValueError(
            f"{task.name}: numbers up to {largest}, raised by up to {shift} "
            f"(loss.max_value_offset), pass the vocabulary's last, {model.num_numbers - 1}; "
            "raise model.num_numbers"
        )


def _check_gaps(config: TrainConfig) -> None:
    """Value gaps need true rounds: beyond a gap only the task's rule defines a chain."""
    loss, tasks = config.loss, {b.task for b in config.data.buckets.values()}
    raised = [name for name, maximum in loss.max_value_offset.items() if maximum]
    minimum = min(loss.forcing_start, loss.forcing_end)
    if loss.value_gap_prob and (raised != ["lis"] or minimum < 1):
        raise ValueError(
            f"loss.value_gap_prob is {loss.value_gap_prob:g}: it needs a loss.max_value_offset of lis "
            f"alone, here {loss.max_value_offset}, and true rounds (loss.forcing_start and "
            f"loss.forcing_end 1), here {minimum:g}; set it to 0"
        )
    if loss.value_gap_prob and not (config.model.uses_feedback and "lis" in tasks):
        raise ValueError(
            f"loss.value_gap_prob is {loss.value_gap_prob:g}: it is for LIS and a looped model with "
            f"input_injection='feedback', here {', '.join(sorted(tasks))} and kind="
            f"{config.model.kind!r}; set it to 0"
        )


def _check_marks(bucket: Bucket) -> None:
    """Checks that the model has an embedding for every pointer of a task."""
    task, length = bucket.task, np.array([bucket.longest])
    problem = sample_split(task, np.random.default_rng(0), length, "train").problem
    aligned = jnp.asarray(right_align(problem, task.problem_size(bucket.longest)))
    marks = int(task.scratchpad(aligned, bucket.num_loops).pointers.max())
    if marks >= NUM_POINTERS:
        raise ValueError(
            f"{task} points at {marks} places in a loop, and round feedback knows "
            f"{NUM_POINTERS - 1}; use smaller groups"
        )


def check_start(config: TrainConfig, source: TrainConfig) -> None:
    """Checks that a run can start from the parameters of another one.

    Args:
      source: the config of the run `init_from`.

    Raises:
      ValueError: its parameters have other shapes.
    """
    if source.model == config.model:
        return
    run, shapes = config.init_from, []
    for each in (source, config):
        params = jax.eval_shape(lambda each=each: init_params(each))
        leaves = jax.tree_util.tree_leaves_with_path(params)
        shapes.append({jax.tree_util.keystr(p): leaf.shape for p, leaf in leaves})
    for name in sorted(shapes[0].keys() | shapes[1].keys()):
        there, here = shapes[0].get(name), shapes[1].get(name)
        if there != here:
            raise ValueError(
                f"init_from: the parameter {name} has the shape {there} in {run} and "
                f"{here} here; give this run the same model"
            )
