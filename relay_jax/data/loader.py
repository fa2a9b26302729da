"""The data loader: the batch of a step is a function of (seed, step) and the buckets.

So a checkpoint needs no iterator state, a resumed run sees exactly the batches that an
uninterrupted one sees, and each of several processes can build its own rows.
All examples of a batch come from one bucket (one task, one range of lengths, one
source), which is sampled for each step: there are few shapes to compile.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Generator
from typing import NamedTuple

import numpy as np
from absl import flags
from etils import epath

from relay_jax.base import DecoderBatch, Examples, Host, Int, LoopedBatch
from relay_jax.config import TrainConfig
from relay_jax.data.alignment import (
    decoder_batch,
    looped_batch,
    looped_width,
    max_looped_width,
    truncate_chains,
)
from relay_jax.data.buckets import AnyBucket, Bucket, TextBucket, open_buckets
from relay_jax.data.text import Text
from relay_jax.tasks import Task

BUCKET_CHOICE = 3  # a purpose of random numbers, see `sources.PURPOSES`
PREFETCH = 8  # batches


class Step(NamedTuple):
    """The task, loops and batch of one training step."""

    step: int
    task: Task | Text
    num_loops: int  # if the batch has more rounds than this, the step samples some
    batch: LoopedBatch | DecoderBatch


def step_at(
    step: int,
    buckets: list[AnyBucket],
    config: TrainConfig,
    rows: Int[Host, " b"] | None = None,
) -> Step:
    """The batch of one step: a function of (seed, step) and the buckets.

    A process that builds the whole batch makes it as narrow as its examples permit. A
    process that builds some rows does not see the others, so it makes them as wide as
    any example of the bucket could be.

    Args:
      rows: indices of the rows to build; all by default.
    """
    batch_size, seed = config.data.batch_size, config.seed
    weights = np.array([b.weight * (step >= b.first_step) for b in buckets])
    rng = np.random.default_rng([seed, BUCKET_CHOICE, step])
    bucket = buckets[rng.choice(len(buckets), p=weights / weights.sum())]
    rows = np.arange(batch_size) if rows is None else rows
    if isinstance(bucket, TextBucket):
        batch = bucket.source.sample(step, batch_size, rows)
        return Step(step, bucket.task, bucket.num_loops, batch)
    examples = bucket.source.take(step * batch_size + rows)
    is_whole = len(rows) == batch_size
    if config.model.kind == "looped":
        batch = _looped_batch(bucket, examples, is_whole)
    else:
        longest = 0 if is_whole else bucket.longest
        batch = decoder_batch(examples, bucket.task, longest)
    return Step(step, bucket.task, bucket.sampled_rounds, batch)


def _looped_batch(bucket: Bucket, examples: Examples, is_whole: bool) -> LoopedBatch:
    task, longest = bucket.task, bucket.longest
    examples = truncate_chains(examples, bucket.num_loops)
    if is_whole:
        width = looped_width(examples, task, longest)
    else:
        width = max_looped_width(task, longest)
    columns = task.round_size(longest) + 1  # with the boundary pad
    return looped_batch(examples, task, bucket.num_loops, width, columns)


class _StepFactory:
    """`step_at` of a run; each process opens the buckets itself."""

    def __init__(self, config: TrainConfig, workdir: str, rows):
        self.config, self.workdir, self.rows = config, workdir, rows
        self.buckets: list[AnyBucket] = []

    def __call__(self, step) -> Step:
        self.buckets = self.buckets or open_buckets(self.config, self.workdir)
        return step_at(int(step), self.buckets, self.config, self.rows)


def steps(
    config: TrainConfig,
    workdir: epath.PathLike,
    start: int,
    stop: int,
    rows: Int[Host, " b"] | None = None,
) -> Generator[Step, None, None]:
    """Yields the steps from `start` to below `stop`, prefetched by grain.

    Batches are built in a thread, or in `data.num_workers` processes, which end with
    the last step or when the generator is closed.

    Args:
      rows: see `step_at`.
    """
    import grain

    factory = _StepFactory(config, str(workdir), rows)
    dataset = grain.MapDataset.range(start, stop).map(factory)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=PREFETCH)
    prefetched = dataset.to_iter_dataset(read_options=options)
    if config.data.num_workers:
        if not flags.FLAGS.is_parsed():  # in a notebook; grain reads flags of its own
            flags.FLAGS.mark_as_parsed()
        prefetched = prefetched.mp_prefetch(
            grain.MultiprocessingOptions(config.data.num_workers, PREFETCH),
            worker_init_fn=_init_worker,
        )
        # Shared memory would leak while anything still refers to the last batch.
        no_shm = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
        prefetched = grain.experimental.WithOptionsIterDataset(prefetched, no_shm)
    with contextlib.closing(iter(prefetched)) as iterator:
        yield from iterator


def _init_worker(*_) -> None:
    """Makes a worker end with the run, whether that closes it or is killed.

    Signals sent to all processes of a job are handled by the run alone.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
