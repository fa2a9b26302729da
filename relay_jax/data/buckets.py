"""Buckets: the sources that a run's batches come from, checked and opened.

BucketConfig.kind   source
synthetic           SyntheticSource: examples generated on demand
tfds                TfdsSource: a dataset of experiments.make_data
chains              InMemorySource: chains that a trained model has generated
problems            InMemorySource: the problems of a text file
text                Windows: a token array (language models)
"""

import math
from typing import NamedTuple

from etils import epath

from relay_jax import config as configs
from relay_jax.config import BucketConfig, ModelConfig, TrainConfig
from relay_jax.data.chain_files import has_separate_rounds, read_chains
from relay_jax.data.problem_files import open_problems
from relay_jax.data.sources import Source, SyntheticSource, check_problems
from relay_jax.data.text import Text, Windows, open_windows
from relay_jax.tasks import Task, make_task


class Bucket(NamedTuple):
    """An opened bucket of task examples."""

    task: Task
    source: Source
    longest: int  # length of its longest problems
    num_loops: int  # T of these problems
    sampled_rounds: int  # rounds that one step trains; num_loops unless sampled
    weight: float
    first_step: float = 0  # the bucket is not drawn before this step


class TextBucket(NamedTuple):
    """An opened bucket of text, for a decoder."""

    task: Text
    source: Windows
    longest: int  # tokens of a window
    weight: float
    first_step: float = 0
    num_loops: int = 0  # a decoder has no loops


AnyBucket = Bucket | TextBucket


def check_lengths(
    task: Task, lengths: tuple[int, int], model: ModelConfig, split: str = "train"
) -> None:
    """Checks that a model's vocabulary covers the task's problems of these lengths.

    Raises:
      ValueError: the vocabulary is for text, or has too few numbers, or the range of
        lengths has no problems in this split (`check_problems`).
    """
    if model.text_vocab_size:
        raise ValueError(
            f"{task.name}: model.text_vocab_size is {model.text_vocab_size}, so the "
            "model's vocabulary is for text, not for the tasks; set it to 0"
        )
    longest = lengths[1]
    if task.max_number(longest) >= model.num_numbers:
        raise ValueError(
            f"{task.name}: problems of length {longest} contain numbers up to "
            f"{task.max_number(longest)}, but the vocabulary ends at "
            f"{model.num_numbers - 1}; raise model.num_numbers"
        )
    check_problems(task, lengths, split)


def check_buckets(config: TrainConfig) -> None:
    """Checks everything about a run's buckets that can be checked without their data.

    Raises:
      ValueError: there is no bucket, a value is out of range, or no bucket can start.
    """
    buckets = config.data.buckets
    if not buckets:
        raise ValueError("data.buckets is empty; name at least one task to train on")
    for name, bucket in buckets.items():
        _check_bucket(f"data.buckets.{name}", bucket, config.model)
    if all(bucket.start_share for bucket in buckets.values()):
        raise ValueError(
            "every bucket of data.buckets has a start_share above 0, so training has "
            "nothing to start with; set start_share=0 for at least one"
        )


def _check_bucket(where: str, bucket: BucketConfig, model: ModelConfig) -> None:
    if not 0 < bucket.weight < math.inf:
        raise ValueError(f"{where}.weight must be above 0, got {bucket.weight}")
    if not 0 <= bucket.start_share < 1:
        raise ValueError(
            f"{where}.start_share must be at least 0 and below 1, got "
            f"{bucket.start_share}"
        )
    if bucket.kind != "synthetic" and not bucket.path:
        raise ValueError(f"{where} has kind={bucket.kind!r} and needs a path")
    if bucket.kind != "text":
        check_lengths(bucket_task(bucket), bucket.lengths, model)
    elif model.kind != "decoder":
        raise ValueError(
            f"{where}: only a decoder can train on text; set model.kind='decoder', got "
            f"{model.kind!r}"
        )


def open_buckets(config: TrainConfig, workdir: epath.PathLike = ".") -> list[AnyBucket]:
    """Opens every bucket of the run in `workdir`.

    Buckets of chains that are empty (as `ChainsConfig.allow_fewer` permits) are left
    out.

    Raises:
      ValueError: a bucket cannot be opened, or none is left to start training with.
    """
    check_buckets(config)
    opened = [open_bucket(b, config, workdir) for b in config.data.buckets.values()]
    filled = [b for b in opened if isinstance(b, TextBucket) or len(b.source)]
    if not any(bucket.first_step == 0 for bucket in filled):
        raise ValueError(
            f"none of the buckets {', '.join(config.data.buckets)} has any examples to "
            "start with; generate chains that pass the filter, or train on other "
            "problems too"
        )
    return filled


def run_tasks(config: TrainConfig) -> dict[str, tuple[Task, ...]]:
    """The tasks of a run by name, each with the options of its evaluation, then with
    those of each bucket."""
    evaluated = config.evaluation
    names = dict.fromkeys([*evaluated.lengths, *evaluated.options])
    options = [(name, dict(evaluated.options.get(name, {}))) for name in names]
    for bucket in config.data.buckets.values():
        if bucket.kind != "text":
            options.append((bucket.task, dict(bucket.options)))
    tasks: dict[str, tuple[Task, ...]] = {}
    for name, values in options:
        tasks[name] = (*tasks.get(name, ()), make_task(name, values))
    return tasks


def bucket_task(bucket: BucketConfig) -> Task:
    """The task of a bucket that is not text. Raises ValueError: see `make_task`."""
    return make_task(bucket.task, bucket.options)


def bucket_rounds(bucket: BucketConfig, task: Task) -> tuple[int, int]:
    """The rounds of the bucket's longest chains, and the number trained in a step."""
    num_rounds = task.num_rounds(bucket.lengths[1])
    num_rounds = min(bucket.max_rounds or num_rounds, num_rounds)
    return num_rounds, min(bucket.sampled_rounds or num_rounds, num_rounds)


def open_bucket(
    bucket: BucketConfig, config: TrainConfig, workdir: epath.PathLike
) -> AnyBucket:
    """Opens a bucket that has passed `check_buckets`.

    Raises:
      ValueError: its data does not exist or does not fit the config.
    """
    model, seed, lengths = config.model, config.seed, bucket.lengths
    weight, first_step = bucket.weight, bucket.start_share * config.num_steps
    if bucket.kind == "text":
        file, size = epath.Path(workdir) / bucket.path, lengths[1]
        windows = open_windows(file, size, model.vocab_size, seed)
        return TextBucket(Text(bucket.task), windows, size, weight, first_step)
    task, path = bucket_task(bucket), configs.resolve(bucket.path, workdir)
    if bucket.kind == "synthetic":
        source = SyntheticSource(task, lengths, seed)
    elif bucket.kind == "tfds":
        from relay_jax.data.tfds_source import open_tfds  # slow to import

        source = open_tfds(task, lengths, path, seed)
    elif bucket.kind == "problems":
        source = open_problems(path, task, lengths, seed, model.num_numbers)
    else:
        source = read_chains(path, task, lengths, seed)
        weight *= len(source) / source.num_requested  # few chains get little weight
        if len(source) and not has_separate_rounds(source.examples):
            check_chain_format("decoder", model.kind, str(path))
    rounds = bucket_rounds(bucket, task)
    return Bucket(task, source, lengths[1], *rounds, weight, first_step)


def check_chain_format(generator: str, learner: str, where: str) -> None:
    """Checks that a model of kind `learner` can train on the chains of a `generator`.

    Args:
      generator, learner: kinds of models.
      where: the beginning of the error message, e.g. the path of the chains.

    Raises:
      ValueError: a looped model would learn from a decoder's chains.
    """
    if generator == "decoder" and learner == "looped":
        raise ValueError(
            f"{where}: a decoder generated these chains, each in one piece, but a "
            "looped model learns them round by round; use chains that a looped model "
            "generated, or set model.kind='decoder'"
        )


def open_held_out(config: TrainConfig, workdir: epath.PathLike) -> Windows:
    """The held-out text of a run that trains on text.

    Raises:
      ValueError: it is missing, or has token ids outside the model's vocabulary.
    """
    settings = config.evaluation
    file = epath.Path(workdir) / settings.text
    return open_windows(file, settings.context, config.model.vocab_size)
