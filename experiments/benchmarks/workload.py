"""Batches of one shape for `benchmarks/train.py`, and how much work a step on them is."""

import collections
import dataclasses
import time
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from relay_jax.config import BucketConfig, TrainConfig
from relay_jax.data import loader
from relay_jax.evaluation.flops import step_flops


class Workload(NamedTuple):
    """Batches of the most frequent shape of a bucket."""

    steps: list[loader.Step]
    share: float  # of the bucket's batches that have this shape
    batches_per_second: float  # that the data pipeline makes


def make_workload(
    bucket: BucketConfig, config: TrainConfig, workdir: epath.PathLike, num_steps: int
) -> Workload:
    """Draws batches of one bucket and times the data pipeline.

    Args:
      workdir: the path of a run directory, beside which the chains of a bucket are.
    """
    alone = dataclasses.replace(bucket, start_share=0.0)
    data = dataclasses.replace(config.data, buckets={"alone": alone})
    config = dataclasses.replace(config, data=data)
    count = max(num_steps, 2 * loader.PREFETCH)
    stream = loader.steps(config, workdir, 0, count + 1)
    next(stream)  # starts the pipeline, which is not timed
    before = time.perf_counter()
    steps = list(stream)
    speed = count / (time.perf_counter() - before)
    (shape, frequency), *_ = collections.Counter(map(_shape, steps)).most_common(1)
    steps = [step for step in steps if _shape(step) == shape]
    steps = [steps[i % len(steps)] for i in range(num_steps)]
    return Workload(steps, frequency / count, speed)


def _shape(step: loader.Step) -> tuple:
    return tuple(array.shape for array in step.batch)


def describe_workload(work: Workload, config: TrainConfig) -> dict[str, Any]:
    """The shapes of a step and its work, for records."""
    first = work.steps[0]
    if config.model.kind == "decoder":
        batch_size, width = first.batch.tokens[:, :-1].shape
        loops, columns = 1, width
        trained = [step.batch.trained.sum() for step in work.steps]
    else:
        batch_size, width = first.batch.problem.shape
        loops, columns = first.num_loops, first.batch.rounds.shape[-1]
        share = loops / len(first.batch.rounds)  # below 1 if rounds are sampled
        trained = [step.batch.mask.sum() * share for step in work.steps]
    return {
        "task": first.task.name,
        "num_loops": loops,
        "width": width,
        "share_of_batches": round(work.share, 2),
        "positions": batch_size * width * loops,  # padding included
        "trained_tokens": round(float(np.mean(trained)), 1),
        "gigaflops": step_flops(config, batch_size, width, loops, columns) / 1e9,
        "batches_per_second": round(work.batches_per_second, 1),
    }
