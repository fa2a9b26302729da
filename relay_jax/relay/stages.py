"""The whole method as stages: runs and chains, each made once what it needs is there.

Stages run as processes of their own, several at once, each on one core: for models that
train in minutes on a CPU that is nearly twice as fast as one process on two cores.
Interrupted and started again, every stage goes on where it was.
"""

import graphlib
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

from etils import epath
from tqdm import tqdm

from relay_jax import config as configs
from relay_jax import config_io, files
from relay_jax.data.buckets import (
    bucket_task,
    check_chain_format,
    open_bucket,
    open_held_out,
)
from relay_jax.data.chain_files import chain_file
from relay_jax.relay.generate import check_chains, write_chains
from relay_jax.tasks import make_task
from relay_jax.training import loop, run_dir
from relay_jax.training.validate import check_config, check_start

StageConfig = configs.TrainConfig | configs.ChainsConfig


def needs(stage: StageConfig) -> set[str]:
    """The stages whose results a stage starts from."""
    if isinstance(stage, configs.ChainsConfig):
        return {stage.model, stage.judge} - {""}
    written = {b.path for b in stage.data.buckets.values() if b.kind == "chains"}
    return written | ({stage.init_from} - {""})


def with_needs(
    stages: dict[str, StageConfig], wanted: Iterable[str]
) -> dict[str, StageConfig]:
    """The stages that are wanted, and all that these start from, in the given order.

    Raises:
      ValueError: one that is wanted is not among the stages.
    """
    kept, open_names = set(), list(wanted)
    while open_names:
        name = open_names.pop()
        if name not in stages:
            raise ValueError(f"unknown stage {name!r}; there are {', '.join(stages)}")
        kept.add(name)
        open_names += needs(stages[name]) - kept
    return {name: stage for name, stage in stages.items() if name in kept}


def check_stages(
    stages: dict[str, StageConfig], path: epath.Path | None = None
) -> None:
    """Raises ValueError at whatever can be seen to be wrong before any stage starts.

    This takes seconds, and no device: a stage may need it for itself.

    Args:
      path: where the stages are to be; then their data from elsewhere is opened, too.
    """
    for name, stage in stages.items():
        missing = needs(stage) - set(stages)
        if missing:
            raise ValueError(
                f"stage {name!r} needs {', '.join(sorted(missing))}; the config has "
                f"{', '.join(stages)}"
            )
    try:
        graphlib.TopologicalSorter({n: needs(s) for n, s in stages.items()}).prepare()
    except graphlib.CycleError as error:
        circle = ", ".join(error.args[1])
        raise ValueError(f"these stages wait for each other: {circle}") from None
    for name, stage in stages.items():
        try:
            if isinstance(stage, configs.ChainsConfig):
                named = {"model": stage.model, "judge": stage.judge}
                runs = {run: _run(stages, run, k) for k, run in named.items() if run}
                check_chains(stage, runs)
            else:
                _check_run(stage, stages, path / name if path else None)
        except ValueError as error:
            raise ValueError(f"stage {name!r}: {error}") from error


def _check_run(config: configs.TrainConfig, stages, workdir) -> None:
    check_config(config)
    if config.init_from:
        check_start(config, _run(stages, config.init_from, "init_from"))
    for name, bucket in config.data.buckets.items():
        if bucket.kind == "chains":
            _check_source(f"data.buckets.{name}", bucket, config, stages)
        elif workdir:
            open_bucket(bucket, config, workdir)
    if workdir and config.evaluation.text:
        open_held_out(config, workdir)


def _run(stages, name: str, field: str) -> configs.TrainConfig:
    """The training stage that a field names."""
    trains = isinstance(stages[name], configs.TrainConfig)
    if not trains:
        raise ValueError(f"{field} is {name!r}, which writes chains; name a run")
    return stages[name]


def _check_source(where: str, bucket, config: configs.TrainConfig, stages) -> None:
    """The chains that a bucket is made of are to be of its task and its lengths, and
    such as the run's model can learn."""
    source = stages[bucket.path]
    writes = isinstance(source, configs.ChainsConfig)
    if not writes:
        raise ValueError(f"{where}.path is {bucket.path!r}, which writes no chains")
    writer = _run(stages, source.model, f"{bucket.path}: model")
    kinds = writer.model.kind, config.model.kind
    check_chain_format(*kinds, f"{where}: {bucket.path}")
    written = make_task(source.task, source.options)
    task = bucket_task(bucket)
    if written != task:
        raise ValueError(f"{where}: {bucket.path} is of {written}, expected {task}")
    there = list(map(str, source.counts))
    for length in range(bucket.lengths[0], bucket.lengths[1] + 1):
        if str(length) not in there:
            raise ValueError(
                f"{where}: {bucket.path} has no chains of length {length}; it has "
                f"{', '.join(there)}"
            )


def finished(stages: dict[str, StageConfig], path: epath.Path) -> set[str]:
    """The stages that are done already.

    Raises:
      ValueError: the directory holds a stage of another config.
    """
    for name, stage in stages.items():
        if (path / name / "config.json").exists():
            run_dir.open_run(path / name, stage)
    done = {name for name in stages if (path / name / "summary.json").exists()}
    runs = {n for n in done if isinstance(stages[n], configs.TrainConfig)}
    return done - {name for name in runs if not run_dir.is_finished(path / name)}


def progress(stage: StageConfig, workdir: epath.Path) -> tuple[int, int, str]:
    """How much of a stage is done, of how much, and of what; a run that was killed may
    have told of some steps that it has to take again."""
    if isinstance(stage, configs.ChainsConfig):
        task = make_task(stage.task, stage.options)
        files = [chain_file(workdir, task, int(length)) for length in stage.counts]
        return sum(file.exists() for file in files), len(files), "lengths"
    lines = _metrics(workdir)
    return lines[-1]["step"] if lines else 0, stage.num_steps, "steps"


def _metrics(workdir: epath.Path) -> list[dict[str, Any]]:
    file = workdir / "metrics.jsonl"
    return list(files.read_lines(file)) if file.exists() else []


def run_stages(
    stages: dict[str, StageConfig],
    path: epath.Path,
    jobs: int,
    deadline: float = math.inf,
) -> None:
    """Runs every stage once what it needs is there, at most `jobs` at a time.

    Args:
      deadline: when `time.monotonic()` gets there, what runs saves and stops.

    Raises:
      Stopped: it got there before the last stage was finished.
    """
    context = multiprocessing.get_context("spawn")
    free = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    done = finished(stages, path)
    if done:
        print(f"already there: {', '.join(n for n in stages if n in done)}", flush=True)
    running: dict[str, Any] = {}
    cores: dict[str, set[int]] = {}
    runs = [s for s in stages.values() if isinstance(s, configs.TrainConfig)]
    total = sum(run.num_steps for run in runs)
    with _forwarded_signals(running), tqdm(total=total, unit="step") as bar:
        while len(done) < len(stages):
            if time.monotonic() >= deadline:
                _stop(running)
                raise loop.Stopped("out of time; run the same command to go on")
            waiting = [n for n in stages if n not in done and n not in running]
            ready = [n for n in waiting if needs(stages[n]) <= done]
            for name in ready[: jobs - len(running)]:
                core = {free.pop(0)} if jobs > 1 and free else None
                job = context.Process(
                    target=run_stage,
                    args=(config_io.to_dict(stages[name]), str(path / name), core),
                )
                job.start()
                running[name], cores[name] = job, core or set()
            time.sleep(0.5)
            for name, job in list(running.items()):
                if job.exitcode is None:
                    continue
                free += sorted(cores[name])
                del running[name]
                if job.exitcode:
                    _stop(running)
                    _explain(name, job.exitcode, path)
                done.add(name)
            _show(bar, stages, running, path)


def run_stage(values: dict[str, Any], workdir: str, core: set[int] | None) -> None:
    """In a process of its own: trains one model, or writes chains."""
    if core:
        os.sched_setaffinity(0, core)
    # Should the command be killed, its stages save and stop instead of living on.
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    os.makedirs(workdir, exist_ok=True)
    log = os.open(f"{workdir}/log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        if "num_steps" in values:
            loop.train(config_io.build(configs.TrainConfig, values), workdir)
        else:
            write_chains(config_io.build(configs.ChainsConfig, values), workdir)
    except loop.Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(143)
    except (ValueError, FloatingPointError, OSError) as error:
        sys.exit(f"error: {error}")


def _stop_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _show(bar, stages, running, path) -> None:
    """The bar counts the steps of all stages; beside it, what runs now."""
    steps, shown = 0, []
    for name in stages:
        lines = _metrics(path / name)
        if lines:
            steps += lines[-1]["step"]
        if name in running:
            loss = f" {lines[-1]['step']} loss {lines[-1]['loss']:.3f}" if lines else ""
            shown.append(name + loss)
    bar.set_postfix_str(", ".join(shown), refresh=False)
    bar.update(steps - bar.n)
    bar.refresh()


def _explain(name: str, code: int, path: epath.Path) -> None:
    """Ends the command with the reason for which a stage ended."""
    if code in (143, -signal.SIGTERM):
        print("stopped; run the same command to go on", file=sys.stderr)
        sys.exit(143)
    log = path / name / "log.txt"
    tail = log.read_text().replace("\r", "\n").strip().splitlines()[-3:]
    raise ValueError(f"stage {name} failed (see {log}):\n" + "\n".join(tail))


def _stop(running: dict[str, Any]) -> None:
    for job in running.values():
        job.terminate()
    for job in running.values():
        job.join()


class _forwarded_signals:
    """SIGINT and SIGTERM are handed to the stages, which save and stop."""

    def __init__(self, running: dict[str, Any]):
        self.running = running

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._forward)

    def _forward(self, number, frame):
        _stop(self.running)
        print("\nstopped; run the same command to go on", file=sys.stderr)
        sys.exit(128 + number)

    def __exit__(self, *_):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
