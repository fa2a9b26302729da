"""Stage II: a trained model writes chains for longer problems; a decoder learns them.

    DIR/config.json                     the ChainsConfig
    DIR/arithmetic_005.npz              the kept chains of one length (Examples)
    DIR/records.jsonl                   shares of right chains, before and after filtering
    DIR/summary.json                    written last

Interrupted, it goes on with the first length that has no file, from what there is of it
in .arithmetic_005.npz.part.

A chain without an answer is never kept: a decoder did not come to an end, say. Filters
decide which of the others are. Where they keep too few of twenty times as many problems,
that is an error, unless `allow_fewer` will do.

    none            all of them: the default, as in the paper. With an accurate looped
                    model a filter changes little, and every filter leaves out the harder
                    problems first, which bends the distribution that is learnt.
    answer_agrees   the answer is that of the judge (another run); with no judge, what the
                    looped model's chain amounts to is what its answer head says
    confidence      every token had at least this probability
    oracle          the answer is the true one: not to be had outside an experiment
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
from relay_jax.base import Bool, Examples, Float, Host, Int, PyTree
from relay_jax.config import ChainsConfig, ModelConfig, TrainConfig
from relay_jax.data import loader
from relay_jax.data.alignment import left_align
from relay_jax.data.chain_files import (
    REMEDY,
    chain_file,
    read_examples,
    read_report,
    save_chains,
)
from relay_jax.data.sources import SyntheticSource, concatenate
from relay_jax.evaluation.predict import decoder_texts, looped_chains, written_answer
from relay_jax.tasks import Task
from relay_jax.training import checkpoint
from relay_jax.training.validate import COUNT, SEED, SHARE, check_range, check_ranges
from relay_jax.vocabulary import PAD

RANGES = {"batch_size": COUNT, "confidence": SHARE, "seed": SEED}
SEED_OFFSET = 1_000_003  # chains are written for other problems than were trained on
MAX_TRIES = 20  # problems tried for each chain wanted
SAVE_SECONDS = 60
# Of the problems of a length; right: chain and answer.
COUNTS = ("tried", "right", "kept", "kept and right", "without an answer")


class GeneratedChains(NamedTuple):
    """Chains of a model for some problems, and how good they are."""

    examples: Examples  # as the model wrote them, answers included
    confidence: Float[Host, " b"]
    chain_answer: Int[Host, " b"]  # what the chain amounts to
    head_answer: Int[Host, " b"]  # what the answer head says; a decoder has none
    is_right: Bool[Host, " b"]  # chain and answer, to the token


class Writer(NamedTuple):
    """A model to write or to judge with."""

    model: ModelConfig
    params: PyTree


def write_chains(config: ChainsConfig, workdir: epath.PathLike) -> dict:
    """Writes the chains of every length and returns a summary.

    Raises:
      ValueError: the config, the model's run or the directory cannot work.
    """
    task = loader.make_task(config.task, config.options)
    path = epath.Path(workdir)
    if (path / "summary.json").exists():
        checkpoint.open_run(path, config)
        return files.read_json(path / "summary.json")
    runs = {
        name: checkpoint.load_params(configs.resolve(name, path))
        for name in (config.model, config.judge)
        if name
    }
    check_chains(config, {name: trained for name, (trained, _) in runs.items()})
    writers = {name: Writer(run.model, params) for name, (run, params) in runs.items()}
    writer, judge = writers[config.model], writers.get(config.judge)
    checkpoint.open_run(path, config)  # a refused config must not claim the directory

    lines = []
    with tqdm(total=sum(config.counts.values()), desc="chains", unit="chain") as bar:
        for length, count in config.counts.items():
            file = chain_file(path, task, int(length))
            if not file.exists():
                bar.set_postfix(length=length)
                _write_length(file, writer, judge, task, int(length), count, config)
            lines += _read_report(file, task, int(length), path.name, config)
            bar.update(count)
    files.write_lines(path / "records.jsonl", lines)
    share = {
        metric: {
            line["length"]: line["value"] for line in lines if line["metric"] == metric
        }
        for metric in dict.fromkeys(line["metric"] for line in lines)
    }
    files.write_json(path / "summary.json", share)
    return share


def check_chains(config: ChainsConfig, runs: Mapping[str, TrainConfig]) -> None:
    """Raises ValueError at what is wrong with a config, before any work.

    Args:
      runs: the configs of the model and of the judge, by name.
    """
    check_ranges(config, RANGES)
    task = loader.make_task(config.task, config.options)
    if not config.counts:
        raise ValueError("counts is empty; say how many chains, {'5': 4000}")
    for length, count in config.counts.items():
        if not (isinstance(length, str) and length.isdecimal()):
            raise ValueError(
                f"counts must name lengths, as in {{'5': 4000}}, got {length!r}"
            )
        check_range(f"counts.{length}", count, COUNT)
        for run in runs.values():
            loader.check_lengths(task, (int(length), int(length)), run.model)
    is_looped = runs[config.model].model.kind == "looped"
    if config.filter == "answer_agrees" and not is_looped and not config.judge:
        raise ValueError(
            f"the filter 'answer_agrees' needs a judge: {config.model} is a decoder, "
            "which has no answer head to agree with; name another run as judge"
        )
    for name, run in runs.items():
        _check_meaning(task, name, run)


def _check_meaning(task: Task, name: str, run: TrainConfig) -> None:
    """A model must have learnt what the chains are to say: the same modulus, say."""
    if task.name not in run.evaluation.options:
        return
    known = loader.make_task(task.name, run.evaluation.options[task.name])
    for option in task.semantic_options:
        wanted, learnt = getattr(task, option), getattr(known, option)
        if wanted != learnt:
            raise ValueError(
                f"options of {task.name}: {option} is {wanted}, but {name} has learnt "
                f"{option} {learnt}; give the same, or another model"
            )


def _write_length(file, writer, judge, task, length, count, config) -> None:
    """Writes `count` kept chains of one length, and what is needed to report on them."""
    seed = config.seed + SEED_OFFSET
    problems = SyntheticSource(task, (length, length), seed, "train")
    part = file.parent / f".{file.name}.part"  # what an interrupted call came to
    kept = [read_examples(part)] if part.exists() else []
    report = read_report(part) if kept else np.zeros(len(COUNTS), int)
    found, saved_at = sum(len(each.length) for each in kept), time.monotonic()
    most = MAX_TRIES * max(count, config.batch_size)
    while found < count and (tried := int(report[0])) <= most:
        wanted = max(min(count - found, 4096), config.batch_size)
        given = problems.take(tried + np.arange(wanted))
        written = generate(writer, task, given, config.batch_size)
        keep = FILTERS[config.filter](written, given, judge, task, config)
        has_answer = written.examples.answer != PAD
        keep &= has_answer
        right = written.is_right
        counted = right, keep, keep & right, ~has_answer
        report += [wanted, *(int(np.sum(each)) for each in counted)]
        keep &= np.cumsum(keep) <= count - found
        kept.append(Examples(*(each[keep] for each in written.examples)))
        found += int(keep.sum())
        if time.monotonic() - saved_at > SAVE_SECONDS:
            save_chains(part, concatenate(kept), report)
            saved_at = time.monotonic()
    if found < count:
        told = (
            f"{task.name}, length {length}: the filter {config.filter!r} kept {found} of "
            f"{report[0]} chains, {count} are wanted ({report[-1]} have no answer)"
        )
        if not config.allow_fewer:
            raise ValueError(
                f"{told}; use another filter, shorter problems or a better model, or "
                "set fewer to go on with these"
            )
        tqdm.write(f"{told}; goes on with these", sys.stderr)
    save_chains(file, concatenate(kept), report)
    part.unlink(missing_ok=True)


def generate(
    writer: Writer, task: Task, given: Examples, batch_size: int
) -> GeneratedChains:
    """Lets a model solve problems; nothing of `given` but the problems is told to it.

    A decoder's chain is kept in one piece (as a single round), which is all that
    another decoder needs.
    """
    if writer.model.kind == "looped":
        said = looped_chains(writer.params, writer.model, task, given, batch_size)
        rounds = left_align(said.rounds)
        chain_answer = task.chain_answer(rounds, given.num_rounds)
        answer = chain_answer if task.answer_in_chain else said.answer
        examples = given._replace(rounds=rounds, answer=answer)
        width = max(rounds.shape[-1], given.rounds.shape[-1])
        is_right = np.all(_widen(rounds, width) == _widen(given.rounds, width), (1, 2))
        is_right &= answer == given.answer
        return GeneratedChains(
            examples, said.confidence, chain_answer, said.answer, is_right
        )
    tokens, confidence = decoder_texts(
        writer.params, writer.model, task, given, batch_size
    )
    answer, end = written_answer(tokens)
    chain_end = end - (0 if task.answer_in_chain else 1)
    inside = np.arange(tokens.shape[1]) < chain_end[:, None]
    chain = np.where(inside, tokens, PAD)[:, None].astype(given.rounds.dtype)
    examples = given._replace(rounds=chain, answer=answer)
    true = left_align(given.rounds.reshape(len(tokens), 1, -1))
    width = max(chain.shape[-1], true.shape[-1])
    is_right = np.all(_widen(chain, width) == _widen(true, width), (1, 2))
    is_right &= answer == given.answer
    return GeneratedChains(examples, confidence, answer, answer, is_right)


def _widen(tokens, width):
    return np.pad(tokens, [(0, 0), (0, 0), (0, width - tokens.shape[-1])])


def _keep_all(written, given, judge, task, config):
    return np.ones(len(written.is_right), bool)


def _keep_agreeing(written, given, judge, task, config):
    if judge is None:
        said, other = written.chain_answer, written.head_answer
    else:
        said = written.examples.answer
        other = generate(judge, task, given, config.batch_size).head_answer
    return (said == other) & (said != PAD)  # two that say nothing do not agree


def _keep_confident(written, given, judge, task, config):
    return written.confidence >= config.confidence


def _keep_true(written, given, judge, task, config):
    return written.examples.answer == given.answer


FILTERS = {
    "none": _keep_all,
    "answer_agrees": _keep_agreeing,
    "confidence": _keep_confident,
    "oracle": _keep_true,
}


def _read_report(file, task, length, run, config) -> list[dict]:
    report = read_report(file)
    if report.shape != (len(COUNTS),):
        raise ValueError(
            f"{file} holds {report.size} counts, expected {len(COUNTS)}; {REMEDY}"
        )
    tried, right, kept, kept_right, unanswered = report.tolist()
    rows = [
        ("chain_accuracy", right / tried, tried),
        ("kept_share", kept / tried, tried),
        ("unanswered_share", unanswered / tried, tried),
    ]
    if kept:
        rows.append(("kept_chain_accuracy", kept_right / kept, kept))
    return [
        files.make_record(
            run=run,
            task=task.name,
            model=config.name,
            length=length,
            seed=config.seed,
            metric=metric,
            value=value,
            count=count,
        )
        for metric, value, count in rows
    ]
