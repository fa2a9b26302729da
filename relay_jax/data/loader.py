"""From buckets to batches: the batch of a step is a function of (seed, step) alone.

So a checkpoint needs no iterator state, a resumed run sees what it would have seen, and
each of several processes makes its own rows.
Every batch comes from one bucket (one task, one range of lengths, one source), drawn
for the step; shapes are then few, and each is compiled once.
"""

import contextlib
import math
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

from relay_jax import config as configs
from relay_jax import config_io
from relay_jax.base import DecoderBatch, Host, Int, LoopedBatch
from relay_jax.config import BucketConfig, ModelConfig, TrainConfig
from relay_jax.data.alignment import (
    cut_chains,
    decoder_batch,
    longest_width,
    looped_batch,
    looped_width,
)
from relay_jax.data.chain_files import are_rounds, read_chains
from relay_jax.data.sources import Source, SyntheticSource, check_problems
from relay_jax.data.text import Text, Windows, open_windows
from relay_jax.tasks import TASKS, Task

BUCKET_CHOICE = 3  # a purpose, see `source.PURPOSES`
PREFETCH = 8


class Bucket(NamedTuple):
    """An opened bucket."""

    task: Task
    source: Source
    longest: int  # length of its longest problems
    num_loops: int  # their T
    drawn: int  # of these rounds are trained in a step
    weight: float
    first_step: float = 0


class TextBucket(NamedTuple):
    """The same for text; there is nothing to loop over."""

    task: Text
    source: Windows
    longest: int  # tokens of a window
    weight: float
    first_step: float = 0
    num_loops: int = 0


AnyBucket = Bucket | TextBucket


class Step(NamedTuple):
    """What one training step works on."""

    step: int
    task: Task | Text
    num_loops: int  # fewer than the batch has rounds: so many of these are drawn
    batch: LoopedBatch | DecoderBatch


def make_task(name: str, options=()) -> Task:
    """A task by its name. Raises ValueError at an unknown name or option."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; valid tasks: {', '.join(TASKS)}")
    return config_io.build(TASKS[name], dict(options), f"options of {name}")


def check_lengths(
    task: Task, lengths: tuple[int, int], model: ModelConfig, split: str = "train"
) -> None:
    """Raises ValueError where the vocabulary is of text, or at a range that is too long
    for it, or of which there can be no problems in this split (`check_problems`)."""
    if model.text_vocab_size:
        raise ValueError(
            f"{task.name}: model.text_vocab_size is {model.text_vocab_size}, so the model's words "
            "are those of text, not of the tasks; set it to 0"
        )
    longest = lengths[1]
    if task.max_number(longest) >= model.num_numbers:
        raise ValueError(
            f"{task.name}: problems of length {longest} hold numbers up to "
            f"{task.max_number(longest)}, but the vocabulary ends at "
            f"{model.num_numbers - 1}; raise model.num_numbers"
        )
    check_problems(task, lengths, split)


def check_buckets(config: TrainConfig) -> None:
    """Raises ValueError at what is wrong with a bucket whatever its data."""
    buckets = config.data.buckets.values()
    if not buckets:
        raise ValueError("data.buckets is empty; name at least one task to train on")
    for name, bucket in config.data.buckets.items():
        if not 0 < bucket.weight < math.inf:
            raise ValueError(
                f"data.buckets.{name}.weight must be above 0, got {bucket.weight}"
            )
        if not 0 <= bucket.start_share < 1:
            raise ValueError(
                f"data.buckets.{name}.start_share must be at least 0 and below 1, got "
                f"{bucket.start_share}"
            )
        if bucket.kind != "synthetic" and not bucket.path:
            raise ValueError(
                f"data.buckets.{name} has kind={bucket.kind!r} and needs a path"
            )
        if bucket.kind != "text":
            check_lengths(bucket_task(bucket), bucket.lengths, config.model)
        elif config.model.kind != "decoder":
            raise ValueError(
                "text trains a decoder: set model.kind='decoder', got "
                f"{config.model.kind!r}"
            )
    if all(bucket.start_share for bucket in buckets):
        raise ValueError(
            "every bucket of data.buckets has a start_share, so there is nothing to "
            "begin with; let one have 0"
        )


def open_buckets(config: TrainConfig, workdir: epath.PathLike = ".") -> list[AnyBucket]:
    """Opens every bucket of the run in `workdir`, but those whose model could write no
    chains (`ChainsConfig.allow_fewer`).

    Raises:
      ValueError: at whatever cannot work, before training.
    """
    check_buckets(config)
    opened = [open_bucket(b, config, workdir) for b in config.data.buckets.values()]
    filled = [b for b in opened if isinstance(b, TextBucket) or len(b.source)]
    if not any(bucket.first_step == 0 for bucket in filled):
        raise ValueError(
            f"none of the buckets {', '.join(config.data.buckets)} has anything to begin "
            "with; write chains that the filter lets pass, or train on other problems too"
        )
    return filled


def bucket_task(bucket: BucketConfig) -> Task:
    """The task of a bucket that is not text. Raises ValueError: see `make_task`."""
    return make_task(bucket.task, bucket.options)


def bucket_rounds(bucket: BucketConfig, task: Task) -> tuple[int, int]:
    """How many rounds its longest chains have, and how many of them a step trains."""
    num_rounds = task.num_rounds(bucket.lengths[1])
    num_rounds = min(bucket.max_rounds or num_rounds, num_rounds)
    return num_rounds, min(bucket.sampled_rounds or num_rounds, num_rounds)


def open_bucket(
    bucket: BucketConfig, config: TrainConfig, workdir: epath.PathLike
) -> AnyBucket:
    """Opens a bucket that `check_buckets` lets pass.

    Raises:
      ValueError: its data is not there, or does not fit.
    """
    model, seed = config.model, config.seed
    when = bucket.weight, bucket.start_share * config.num_steps
    if bucket.kind == "text":
        file, size = epath.Path(workdir) / bucket.path, bucket.lengths[1]
        windows = open_windows(file, size, model.vocab_size, seed)
        return TextBucket(Text(bucket.task), windows, size, *when)
    task = bucket_task(bucket)
    if bucket.kind == "synthetic":
        count = bucket.num_examples or 2**40
        source = SyntheticSource(task, bucket.lengths, seed, "train", count)
    elif bucket.kind == "tfds":
        from relay_jax.data.tfds_builder import open_tfds  # slow to import

        source = open_tfds(
            task, bucket.lengths, configs.resolve(bucket.path, workdir), seed
        )
    else:
        path = configs.resolve(bucket.path, workdir)
        source = read_chains(path, task, bucket.lengths, seed)
        kept = len(source) / source.wanted
        when = bucket.weight * kept, when[1]  # few weigh little
        if len(source) and not are_rounds(source.examples):
            check_writer("decoder", model.kind, str(path))
    return Bucket(task, source, bucket.lengths[1], *bucket_rounds(bucket, task), *when)


def check_writer(writer: str, learner: str, path: str) -> None:
    """Raises ValueError where a looped model is to learn what a decoder wrote.

    Args:
      writer, learner: kinds of models.
      path: where the chains are, for the message.
    """
    if writer == "decoder" and learner == "looped":
        raise ValueError(
            f"{path}: a decoder wrote these chains, each in one piece, but a looped "
            "model learns them round by round; take chains that a looped model wrote, "
            "or set model.kind='decoder'"
        )


def open_held_out(config: TrainConfig, workdir: epath.PathLike) -> Windows:
    """The held-out text of a run that trains on text.

    Raises:
      ValueError: it is missing, or has words that the model does not.
    """
    settings = config.evaluation
    file = epath.Path(workdir) / settings.text
    return open_windows(file, settings.context, config.model.vocab_size)


def step_at(
    step: int,
    buckets: list[AnyBucket],
    config: TrainConfig,
    rows: Int[Host, " b"] | None = None,
) -> Step:
    """The work of one step: a function of (seed, step) and the buckets.

    Who makes the whole batch makes it as narrow as its examples permit. Who makes some
    rows cannot know what the others need: it is as wide as any example could.

    Args:
      rows: those of the batch that are made; by default all.
    """
    batch_size, seed = config.data.batch_size, config.seed
    weights = np.array([b.weight * (step >= b.first_step) for b in buckets])
    rng = np.random.default_rng([seed, BUCKET_CHOICE, step])
    bucket = buckets[rng.choice(len(buckets), p=weights / weights.sum())]
    rows = np.arange(batch_size) if rows is None else rows
    is_whole = len(rows) == batch_size
    if isinstance(bucket, TextBucket):
        drawn = bucket.source.draw(step, batch_size, rows)
        return Step(step, bucket.task, bucket.num_loops, drawn)
    examples = bucket.source.take(step * batch_size + rows)
    if config.model.kind == "looped":
        examples = cut_chains(examples, bucket.num_loops)
        width = longest_width(bucket.task, bucket.longest)
        if is_whole:
            width = looped_width(examples, bucket.task, bucket.longest)
        columns = bucket.task.round_size(bucket.longest) + 1
        size = bucket.num_loops, width, columns
        batch = looped_batch(examples, bucket.task, *size)
    else:
        longest = 0 if is_whole else bucket.longest
        batch = decoder_batch(examples, bucket.task, longest)
    return Step(step, bucket.task, bucket.drawn, batch)


class _Maker:
    """`step_at` of a run, whose buckets each process opens by itself."""

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
    """Steps `start` to `stop`, made ahead of their use by grain: in a thread, or, with
    `data.num_workers`, in as many processes, until all are taken or this is closed.

    Args:
      rows: see `step_at`.
    """
    import grain

    made = grain.MapDataset.range(start, stop).map(_Maker(config, str(workdir), rows))
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=PREFETCH)
    ahead = made.to_iter_dataset(read_options=options)
    if config.data.num_workers:
        if not flags.FLAGS.is_parsed():  # in a notebook; grain asks its own flags
            flags.FLAGS.mark_as_parsed()
        ahead = ahead.mp_prefetch(
            grain.MultiprocessingOptions(config.data.num_workers, PREFETCH),
            worker_init_fn=_begin_worker,
        )
        # Shared memory would stay behind with whatever still holds the last batch.
        small = grain.experimental.DatasetOptions(min_shm_size=sys.maxsize)
        ahead = grain.experimental.WithOptionsIterDataset(ahead, small)
    with contextlib.closing(iter(ahead)) as taken:
        yield from taken


def _begin_worker(*_) -> None:
    """A worker ends when the run closes it, or with a run that is killed. A signal to
    all of a job's processes is for the run to answer."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
