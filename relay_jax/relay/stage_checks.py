"""Checks of all stages of an experiment before the first one starts.

They take seconds and initialize no device, which a stage may need for itself.
"""

import graphlib

from etils import epath

from relay_jax.config import BucketConfig, ChainsConfig, TrainConfig
from relay_jax.data.buckets import (
    bucket_task,
    check_chain_format,
    open_bucket,
    open_held_out,
)
from relay_jax.relay.generate import check_chains
from relay_jax.relay.stages import StageConfig, dependencies
from relay_jax.tasks import make_task
from relay_jax.training.validate import check_config, check_start

Stages = dict[str, StageConfig]


def check_stages(stages: Stages, path: epath.Path | None = None) -> None:
    """Raises ValueError for the first error in any stage or between stages.

    Args:
      path: the work directory; if given, data from outside the experiment is opened too.
    """
    _check_dependencies(stages)
    for name, stage in stages.items():
        try:
            if isinstance(stage, ChainsConfig):
                fields = {"model": stage.model, "judge": stage.judge}
                runs = {v: _run(stages, v, field) for field, v in fields.items() if v}
                check_chains(stage, runs)
            else:
                _check_run(stage, stages, path / name if path else None)
        except ValueError as error:
            raise ValueError(f"stage {name!r}: {error}") from error


def _check_dependencies(stages: Stages) -> None:
    for name, stage in stages.items():
        missing = dependencies(stage) - set(stages)
        if missing:
            raise ValueError(
                f"stage {name!r} needs {', '.join(sorted(missing))}; the config has "
                f"{', '.join(stages)}"
            )
    graph = {name: dependencies(stage) for name, stage in stages.items()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        cycle = ", ".join(error.args[1])
        raise ValueError(f"these stages depend on each other: {cycle}") from None


def _check_run(config: TrainConfig, stages: Stages, workdir: epath.Path | None) -> None:
    check_config(config)
    if config.init_from:
        check_start(config, _run(stages, config.init_from, "init_from"))
    for name, bucket in config.data.buckets.items():
        if bucket.kind == "chains":
            _check_chains_bucket(f"data.buckets.{name}", bucket, config, stages)
        elif workdir:
            open_bucket(bucket, config, workdir)
    if workdir and config.evaluation.text:
        open_held_out(config, workdir)


def _run(stages: Stages, name: str, field: str) -> TrainConfig:
    """The training stage that a field names."""
    stage = stages[name]
    if isinstance(stage, TrainConfig):
        return stage
    raise ValueError(f"{field} is {name!r}, which generates chains; name a run")


def _chains(stages: Stages, name: str, field: str) -> ChainsConfig:
    """The chain-generation stage that a field names."""
    stage = stages[name]
    if isinstance(stage, ChainsConfig):
        return stage
    raise ValueError(f"{field} is {name!r}, which generates no chains")


def _check_chains_bucket(
    field: str, bucket: BucketConfig, config: TrainConfig, stages: Stages
) -> None:
    """Checks a bucket's chains: their task, lengths, and format for the model."""
    source = _chains(stages, bucket.path, f"{field}.path")
    writer = _run(stages, source.model, f"{bucket.path}: model")
    check_chain_format(writer.model.kind, config.model.kind, f"{field}: {bucket.path}")
    source_task = make_task(source.task, source.options)
    task = bucket_task(bucket)
    if source_task != task:
        raise ValueError(f"{field}: {bucket.path} is of {source_task}, expected {task}")
    for length in range(bucket.lengths[0], bucket.lengths[1] + 1):
        if str(length) not in source.counts:
            raise ValueError(
                f"{field}: {bucket.path} has no chains of length {length}; it has "
                f"{', '.join(source.counts)}"
            )
