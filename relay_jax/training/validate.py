"""Checks of a training config, its data and the devices, before any long work."""

import operator

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
from relay_jax.training.ranges import (
    BUCKET_RANGES,
    RANGES,
    TASK_RANGES,
    check_range,
    check_ranges,
)
from relay_jax.training.step import init_params


def check(config: TrainConfig, workdir: epath.PathLike) -> None:
    """Checks a config, its data and the devices.

    Raises:
      ValueError: something is wrong; the message names it.
    """
    check_config(config)
    check_devices(config)
    for bucket in open_buckets(config, workdir):
        if isinstance(bucket, Bucket) and config.model.uses_feedback:
            _check_pointers(bucket)
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
    """Checks that the mesh fits the devices, and a batch the mesh.

    Raises:
      ValueError: it does not.
    """
    mesh = make_mesh(config.mesh)
    check_batch(mesh, config.data.batch_size, config.data.accumulate)


def check_config(config: TrainConfig) -> None:
    """Checks a config in seconds, without reading files or initializing devices.

    So it can check later stages too, whose inputs do not exist yet.

    Raises:
      ValueError: something is wrong; the message names it.
    """
    check_settings(config)
    check_buckets(config)
    _check_names(config, {bucket.task for bucket in config.data.buckets.values()})
    _check_value_gaps(config)
    for bucket in config.data.buckets.values():
        if bucket.kind != "text":
            _check_value_offset(bucket_task(bucket), bucket.lengths[1], config)
    for name, lengths in config.evaluation.lengths.items():
        task = make_task(name, config.evaluation.options.get(name, {}))
        check_lengths(task, lengths, config.model, "test")


def check_settings(config: TrainConfig) -> None:
    """Checks what does not depend on the data.

    Raises:
      ValueError: a setting is out of its range, or contradicts another one.
    """
    check_ranges(config, RANGES)
    for name, each in TASK_RANGES.items():
        values = operator.attrgetter(name)(config)
        for task, value in values.items():
            check_range(f"{name}.{task}", value, each)
    for name, bucket in config.data.buckets.items():
        check_ranges(bucket, BUCKET_RANGES, f"data.buckets.{name}.")
    _check_model(config.model)
    _check_sampled_rounds(config)
    _check_max_rounds(config)
    shares = config.optimizer.warmup_share, config.optimizer.constant_share
    if sum(shares) > 1 + 1e-9:
        raise ValueError(
            "optimizer.warmup_share and constant_share are at most 1 together, got "
            f"{shares[0]} and {shares[1]}"
        )


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
            f"model.position.scheme='rope' rotates pairs of dimensions, but a head has "
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
            "model.differences needs model.feedback='discrete': the difference of "
            "two mixtures of numbers is not defined"
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


def _check_sampled_rounds(config: TrainConfig) -> None:
    names = [n for n, b in config.data.buckets.items() if b.sampled_rounds]
    forcing = config.loss.forcing_start, config.loss.forcing_end
    if names and not (config.model.uses_feedback and forcing == (1, 1)):
        raise ValueError(
            f"data.buckets.{names[0]}.sampled_rounds trains rounds independently, each "
            "after true ones: it needs kind='looped', input_injection='feedback' and "
            f"loss.forcing_start and forcing_end 1, got {config.model.kind!r}, "
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
    """Checks that the settings of tasks are those of existing tasks."""
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


def _check_value_offset(task: Task, longest: int, config: TrainConfig) -> None:
    max_offset, model = config.loss.max_value_offset.get(task.name, 0), config.model
    if not max_offset:
        return
    if not model.uses_feedback:
        raise ValueError(
            f"loss.max_value_offset.{task.name} is {max_offset}, but only a looped model "
            "with input_injection='feedback' sees the number that a chain counts from; "
            "set it to 0"
        )
    largest = task.max_number(longest)
    if largest + max_offset >= model.num_numbers:
        raise ValueError(
            f"{task.name}: numbers up to {largest}, plus offsets of up to {max_offset} "
            f"(loss.max_value_offset), exceed the vocabulary's largest number, "
            f"{model.num_numbers - 1}; raise model.num_numbers"
        )


def _check_value_gaps(config: TrainConfig) -> None:
    """Checks that value gaps are used with true rounds, for which they are defined."""
    loss, tasks = config.loss, {b.task for b in config.data.buckets.values()}
    raised = [name for name, maximum in loss.max_value_offset.items() if maximum]
    minimum = min(loss.forcing_start, loss.forcing_end)
    if loss.value_gap_prob and (raised != ["lis"] or minimum < 1):
        raise ValueError(
            f"loss.value_gap_prob is {loss.value_gap_prob:g}: it needs a "
            f"loss.max_value_offset of lis alone, got {loss.max_value_offset}, and true "
            f"rounds (loss.forcing_start and loss.forcing_end 1), got {minimum:g}; set it "
            "to 0"
        )
    if loss.value_gap_prob and not (config.model.uses_feedback and "lis" in tasks):
        raise ValueError(
            f"loss.value_gap_prob is {loss.value_gap_prob:g}: it is for LIS and a looped "
            "model with input_injection='feedback', got "
            f"{', '.join(sorted(tasks))} and kind={config.model.kind!r}; set it to 0"
        )


def _check_pointers(bucket: Bucket) -> None:
    """Checks that the model has an embedding for every pointer of a task."""
    task, length = bucket.task, np.array([bucket.longest])
    problem = sample_split(task, np.random.default_rng(0), length, "train").problem
    aligned = jnp.asarray(right_align(problem, task.problem_size(bucket.longest)))
    largest = int(task.scratchpad(aligned, bucket.num_loops).pointers.max())
    if largest >= NUM_POINTERS:
        raise ValueError(
            f"{task} has {largest} pointers per iteration, but a model with round "
            f"feedback has vectors for {NUM_POINTERS - 1}; use smaller groups"
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
