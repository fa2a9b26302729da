"""Stage II of RELAY (section 3.3): a trained model generates chains for longer problems.

    DIR/config.json                 the ChainsConfig
    DIR/arithmetic_005.npz          the selected chains of one length (Examples)
    DIR/records.jsonl               accuracy of the chains, before and after the filter
    DIR/summary.json                written last

An interrupted run resumes with the first length that has no file, from the chains in its
partial file .arithmetic_005.npz.part.

Chains without an answer are always rejected (e.g. of a decoder that did not reach
`<eos>`); the config's filter (`chain_generator.FILTERS`) selects among the others. Up
to `MAX_TRIES` problems are tried for each chain; if fewer chains pass than requested,
it is an error unless the config has `allow_fewer`.
"""

import sys
import time
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from etils import epath
from tqdm import tqdm

from relay_jax import config as configs
from relay_jax import files
from relay_jax.base import Examples
from relay_jax.config import ChainsConfig, TrainConfig
from relay_jax.data import chain_files
from relay_jax.data.buckets import check_lengths
from relay_jax.data.sources import SyntheticSource, concatenate
from relay_jax.relay import chain_generator
from relay_jax.relay.chain_generator import FILTERS, ChainGenerator
from relay_jax.tasks import Task, make_task
from relay_jax.training import checkpoint, run_dir
from relay_jax.training.ranges import COUNT, SEED, check_range, check_ranges
from relay_jax.vocabulary import PAD

RANGES = {"batch_size": COUNT, "seed": SEED}
SEED_OFFSET = 1_000_003  # so that the problems are not those of training
MAX_TRIES = 20  # problems tried for each requested chain
MAX_PROBLEMS = 4096  # in one call of the model
SAVE_SECONDS = 60


class Counts(NamedTuple):
    """Numbers of problems of one length, as a chain file stores them."""

    tried: int = 0
    correct: int = 0  # chain and answer
    passed: int = 0  # the filter
    passed_correct: int = 0
    no_answer: int = 0


def write_chains(config: ChainsConfig, workdir: epath.PathLike) -> dict:
    """Generates and stores the chains of every length, and returns a summary.

    Returns:
      `{metric: {length: value}}`, the contents of summary.json.

    Raises:
      ValueError: the config, the model's run or the directory is not valid.
    """
    task = make_task(config.task, config.options)
    path = epath.Path(workdir)
    if (path / "summary.json").exists():
        run_dir.open_run(path, config)
        return files.read_json(path / "summary.json")
    runs = {
        name: checkpoint.load_params(configs.resolve(name, path))
        for name in (config.model, config.judge)
        if name
    }
    check_chains(config, {name: trained for name, (trained, _) in runs.items()})
    generators = {
        n: ChainGenerator(run.model, params) for n, (run, params) in runs.items()
    }
    generator, judge = generators[config.model], generators.get(config.judge)
    run_dir.open_run(path, config)  # last: an invalid config must not claim it

    lines = []
    with tqdm(total=sum(config.counts.values()), desc="chains", unit="chain") as bar:
        for length, count in config.counts.items():
            file = chain_files.chain_file(path, task, int(length))
            if not file.exists():
                bar.set_postfix(length=length)
                _write_length(file, generator, judge, task, int(length), count, config)
            common = {"run": path.name, "task": task.name, "length": int(length)}
            lines += _make_records(_read_counts(file), common, config)
            bar.update(count)
    files.write_lines(path / "records.jsonl", lines)
    summary: dict[str, dict[int, float]] = {}
    for line in lines:
        summary.setdefault(line["metric"], {})[line["length"]] = line["value"]
    files.write_json(path / "summary.json", summary)
    return summary


def check_chains(config: ChainsConfig, runs: Mapping[str, TrainConfig]) -> None:
    """Raises ValueError if something is wrong with a config, before any work.

    Args:
      runs: the configs of the model and of the judge, by name.
    """
    check_ranges(config, RANGES)
    task = make_task(config.task, config.options)
    if not config.counts:
        raise ValueError(
            "counts is empty; set the number of chains for each length, as in "
            "{'5': 4000}"
        )
    for length, count in config.counts.items():
        if not (isinstance(length, str) and length.isdecimal()):
            raise ValueError(
                "counts must map lengths to numbers of chains, as in {'5': 4000}, got "
                f"the length {length!r}"
            )
        check_range(f"counts.{length}", count, COUNT)
        for run in runs.values():
            check_lengths(task, (int(length), int(length)), run.model)
    is_looped = runs[config.model].model.kind == "looped"
    if config.filter == "answer_agrees" and not is_looped and not config.judge:
        raise ValueError(
            f"the filter 'answer_agrees' needs a judge: {config.model} is a decoder, "
            "which has no answer head to compare with; set judge to another run"
        )
    for name, run in runs.items():
        _check_semantics(task, name, run)


def _check_semantics(task: Task, name: str, run: TrainConfig) -> None:
    """Checks that a model was trained for the same semantics, e.g. the same modulus."""
    if task.name not in run.evaluation.options:
        return
    trained = make_task(task.name, run.evaluation.options[task.name])
    for option in task.semantic_options:
        wanted, learned = getattr(task, option), getattr(trained, option)
        if wanted != learned:
            raise ValueError(
                f"options of {task.name}: {option} is {wanted}, but {name} was trained "
                f"with {option}={learned}; use the same value, or another model"
            )


def _write_length(file, generator, judge, task, length, count, config) -> None:
    """Generates `count` chains of one length that pass the filter, and stores them."""
    seed = config.seed + SEED_OFFSET
    source = SyntheticSource(task, (length, length), seed)
    partial = file.parent / f".{file.name}.part"  # of an interrupted run
    parts, counts = [], Counts()
    if partial.exists():
        parts, counts = [chain_files.read_examples(partial)], _read_counts(partial)
    found, saved_at = sum(len(part.length) for part in parts), time.monotonic()
    max_tried = MAX_TRIES * max(count, config.batch_size)
    while found < count and counts.tried <= max_tried:
        num_problems = max(min(count - found, MAX_PROBLEMS), config.batch_size)
        problems = source.take(counts.tried + np.arange(num_problems))
        passed, more = _generate_and_filter(generator, judge, task, problems, config)
        counts = Counts(*(a + b for a, b in zip(counts, more, strict=True)))
        parts.append(Examples(*(each[: count - found] for each in passed)))
        found += len(parts[-1].length)
        if time.monotonic() - saved_at > SAVE_SECONDS:
            chain_files.save_chains(partial, concatenate(parts), np.array(counts))
            saved_at = time.monotonic()
    if found < count:
        _report_too_few(task, length, found, count, counts, config)
    chain_files.save_chains(file, concatenate(parts), np.array(counts))
    partial.unlink(missing_ok=True)


def _generate_and_filter(
    generator, judge, task, problems: Examples, config: ChainsConfig
) -> tuple[Examples, Counts]:
    """The chains that pass the filter, and the counts of this call."""
    batch_size = config.batch_size
    chains = chain_generator.generate(generator, task, problems, batch_size)

    def judge_answer():
        judged = chain_generator.generate(judge, task, problems, batch_size)
        return judged.head_answer

    passes = FILTERS[config.filter](chains, problems, judge_answer if judge else None)
    has_answer = chains.examples.answer != PAD
    passes &= has_answer
    masks = chains.is_correct, passes, passes & chains.is_correct, ~has_answer
    counts = Counts(len(passes), *(int(np.sum(mask)) for mask in masks))
    return Examples(*(each[passes] for each in chains.examples)), counts


def _report_too_few(task, length, found, count, counts: Counts, config) -> None:
    """Raises ValueError, or warns if fewer chains are allowed."""
    reason = (
        f"{task.name}, length {length}: {found} of {counts.tried} chains passed the "
        f"filter {config.filter!r}, {count} are requested ({counts.no_answer} have no "
        "answer)"
    )
    if not config.allow_fewer:
        raise ValueError(
            f"{reason}; use another filter, shorter problems or a better model, or "
            "set allow_fewer=True to continue with these"
        )
    tqdm.write(f"{reason}; continuing with these", sys.stderr)


def _read_counts(file: epath.Path) -> Counts:
    stored = chain_files.read_counts(file)
    if stored.shape != (len(Counts._fields),):
        raise ValueError(
            f"{file} has {stored.size} counts, expected {len(Counts._fields)}; "
            f"{chain_files.REMEDY}"
        )
    return Counts(*stored.tolist())


def _make_records(counts: Counts, common: dict, config: ChainsConfig) -> list[dict]:
    rows = [
        ("chain_accuracy", counts.correct / counts.tried, counts.tried),
        ("kept_share", counts.passed / counts.tried, counts.tried),
        ("unanswered_share", counts.no_answer / counts.tried, counts.tried),
    ]
    if counts.passed:
        correct_share = counts.passed_correct / counts.passed
        rows.append(("kept_chain_accuracy", correct_share, counts.passed))
    common |= {"model": config.name, "seed": config.seed}
    return [
        files.make_record(**common, metric=metric, value=value, count=count)
        for metric, value, count in rows
    ]
