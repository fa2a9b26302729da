"""Accuracies of trained runs, measured in parts that can be resumed.

DIR/EXPERIMENT/RUN/...        the stages (`relay_jax.relay.stages`)
DIR/measured/*.jsonl          one run on one task at a few lengths each
DIR/records.jsonl             all measurements, and the numbers of generated chains
"""

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from etils import epath

from relay_jax import aliases, config_io, files
from relay_jax.config import ChainsConfig, TrainConfig
from relay_jax.data.chain_files import read_chains
from relay_jax.evaluation import accuracy
from relay_jax.evaluation.evaluate import evaluate_run
from relay_jax.evaluation.report import trained_metrics
from relay_jax.relay import stages
from relay_jax.tasks import make_task
from relay_jax.training import checkpoint, loop

MAX_LENGTHS = 8  # of one measurement, which then takes minutes at most


class Measurement(NamedTuple):
    """One run on one task at a few lengths."""

    experiment: str
    run: str
    task: str
    lengths: tuple[int, ...]
    is_detailed: bool  # by round and position; else answers, chains and tokens

    @property
    def file(self) -> str:
        """The file of its records, relative to the work directory."""
        kind = "hits" if self.is_detailed else "accuracy"
        lengths = f"{self.lengths[0]}_{self.lengths[-1]}"
        name = f"{self.experiment}_{self.run}_{self.task}_{lengths}_{kind}"
        return f"measured/{name}.jsonl"


def all_lengths(
    experiment: str, run: str, config: TrainConfig
) -> Iterator[Measurement]:
    """The measurements that together cover all test lengths of a run's config."""
    for task, bounds in config.evaluation.lengths.items():
        lengths = config.evaluation.steps_to(task, bounds)
        for i in range(0, len(lengths), MAX_LENGTHS):
            part = tuple(lengths[i : i + MAX_LENGTHS])
            yield Measurement(experiment, run, task, part, False)


def run_and_measure(
    experiments: dict[str, dict[str, stages.StageConfig]],
    measurements: Iterable[Measurement],
    path: epath.Path,
    jobs: int,
    deadline: float = math.inf,
) -> None:
    """Runs the stages of all experiments, measures them, and rewrites the records.

    Args:
      measurements: measurements of runs that are not among the stages are left out.
      path: the work directory.
      jobs, deadline: see `stages.run_stages`.

    Raises:
      Stopped: the deadline passed before the end.
    """
    try:
        for experiment, selected in experiments.items():
            stages.run_stages(selected, path / experiment, jobs, deadline)
        for measurement in measurements:
            if measurement.run in experiments[measurement.experiment]:
                measure(measurement, path, deadline)
    finally:
        files.write_lines(path / "records.jsonl", collect_records(path))


def measure(
    measurement: Measurement, path: epath.Path, deadline: float = math.inf
) -> None:
    """Evaluates the run and writes the records, unless they exist already.

    Args:
      deadline: a value of `time.monotonic()`, in seconds.

    Raises:
      Stopped: the deadline has passed.
    """
    file = path / measurement.file
    if file.exists():
        return
    if time.monotonic() >= deadline:
        raise loop.Stopped("out of time; run the same command to resume")
    print(f"measuring {file.stem}", flush=True)
    run = path / measurement.experiment / measurement.run
    config, params = checkpoint.load_params(run)
    metadata = {
        "run": measurement.run,
        "model": config.name,
        "seed": config.seed,
        "experiment": measurement.experiment,
    }
    lines = evaluate_run(
        *(config, params, run, metadata),
        count=config.evaluation.final,
        seed=config.seed,
        final=True,
        lengths={measurement.task: list(measurement.lengths)},
        details=measurement.is_detailed,
    )
    lines = [
        line
        for line in trained_metrics(lines, config)
        if (line["metric"] in accuracy.DETAILS) == measurement.is_detailed
    ]
    file.parent.mkdir(exist_ok=True)
    files.write_lines(file, lines)


def collect_records(path: epath.Path) -> list[dict[str, Any]]:
    """All measurements of a work directory and the numbers of its generated chains."""
    lines = []
    for file in sorted(files.LiteralPath(path).glob("measured/*.jsonl")):
        lines += files.read_lines(file)
    for file in sorted(files.LiteralPath(path).glob("*/chains_*/summary.json")):
        lines += _chain_records(file.parent)
    return lines


def _chain_records(path: epath.Path) -> Iterator[dict[str, Any]]:
    """A stage's own records and the number of its chains of each length (`samples`)."""
    values = aliases.upgrade_config(files.read_json(path / "config.json"))
    config = config_io.build(ChainsConfig, values)
    task = make_task(config.task, config.options)
    metadata = {"model": config.model, "experiment": path.parent.name}
    for line in files.read_lines(path / "records.jsonl"):
        yield line | metadata
    for length in map(int, config.counts):
        chains = read_chains(path, task, (length, length), config.seed)
        count = len(chains.examples.length)
        yield files.make_record(
            **metadata,
            run=path.name,
            task=task.name,
            seed=config.seed,
            length=length,
            metric="samples",
            value=count,
            count=count,
        )
