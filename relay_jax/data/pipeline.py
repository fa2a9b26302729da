"""From buckets to batches: the batch of a step is a function of (seed, step) alone.

So a checkpoint needs no iterator state, and a resumed run sees what it would have seen.
Every batch comes from one bucket (one task, one range of lengths, one source), drawn
for the step; shapes are then few, and each is compiled once.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from relay_jax.config import BucketConfig, DataConfig, ModelConfig
from relay_jax.data.align import (
    DecoderBatch,
    LoopedBatch,
    decoder_batch,
    looped_batch,
)
from relay_jax.data.source import Source, Synthetic
from relay_jax.tasks import TASKS, Task

BUCKET_CHOICE = 3  # a purpose, see `source.PURPOSES`
PREFETCH = 8


class Bucket(NamedTuple):
    """An opened bucket."""

    task: Task
    source: Source
    num_loops: int  # T of its longest problems
    weight: float


class Step(NamedTuple):
    """What one training step works on."""

    step: int
    task: Task
    num_loops: int
    batch: LoopedBatch | DecoderBatch


def make_task(name: str, options=()) -> Task:
    """A task by its name. Raises ValueError at an unknown name or option."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; valid tasks: {', '.join(TASKS)}")
    try:
        return TASKS[name](**dict(options))
    except TypeError as error:
        raise ValueError(f"task {name!r}: {error}") from None


def check_lengths(task: Task, lengths: tuple[int, int], model: ModelConfig) -> None:
    """Raises ValueError at a range that is empty or too long for the vocabulary."""
    shortest, longest = lengths
    if not 1 <= shortest <= longest:
        raise ValueError(
            f"{task.name}: lengths {shortest}..{longest} are out of range; give "
            "(shortest, longest) with 1 <= shortest <= longest"
        )
    if task.max_number(longest) >= model.num_numbers:
        raise ValueError(
            f"{task.name}: problems of length {longest} hold numbers up to "
            f"{task.max_number(longest)}, but the vocabulary ends at "
            f"{model.num_numbers - 1}; raise model.num_numbers"
        )


def open_buckets(config: DataConfig, model: ModelConfig, seed: int) -> list[Bucket]:
    """Opens every bucket. Raises ValueError at whatever cannot work, before training."""
    if not config.buckets:
        raise ValueError("data.buckets is empty; name at least one task to train on")
    return [_open(bucket, model, seed) for bucket in config.buckets.values()]


def _open(bucket: BucketConfig, model: ModelConfig, seed: int) -> Bucket:
    task = make_task(bucket.task, bucket.options)
    check_lengths(task, bucket.lengths, model)
    if bucket.kind == "synthetic":
        count = bucket.num_examples or 2**40
        source = Synthetic(task, bucket.lengths, seed, "train", count)
    elif bucket.kind == "tfds":
        from relay_jax.data.builder import open_tfds  # slow to import

        source = open_tfds(task, bucket.lengths, bucket.path, seed)
    else:
        from relay_jax.chains import read_chains

        source = read_chains(bucket.path, task, bucket.lengths, seed)
    return Bucket(task, source, task.num_rounds(bucket.lengths[1]), bucket.weight)


def step_at(
    step: int, buckets: list[Bucket], batch_size: int, kind: str, seed: int
) -> Step:
    """The work of one step: a function of (seed, step) and the buckets."""
    weights = np.array([bucket.weight for bucket in buckets])
    rng = np.random.default_rng([seed, BUCKET_CHOICE, step])
    bucket = buckets[rng.choice(len(buckets), p=weights / weights.sum())]
    examples = bucket.source.take(step * batch_size + np.arange(batch_size))
    if kind == "looped":
        batch = looped_batch(examples, bucket.task, bucket.num_loops)
    else:
        batch = decoder_batch(examples, bucket.task)
    return Step(step, bucket.task, bucket.num_loops, batch)


def steps(
    config: DataConfig, model: ModelConfig, seed: int, start: int, stop: int
) -> Iterator[Step]:
    """Steps `start` to `stop`, made ahead of their use in a thread of grain's."""
    import grain

    buckets = open_buckets(config, model, seed)
    numbers = grain.MapDataset.range(start, stop)
    made = numbers.map(
        lambda step: step_at(int(step), buckets, config.batch_size, model.kind, seed)
    )
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=PREFETCH)
    return iter(made.to_iter_dataset(read_options=options))
