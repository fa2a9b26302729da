"""The RELAY method as stages: training and chain generation, ordered by dependencies.

Stages run in processes of their own, several at once, each on one core: for models that
train in minutes on a CPU this is nearly twice as fast as one process on two cores. When
interrupted and started again, every stage resumes.
"""

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

from etils import epath
from tqdm import tqdm

from relay_jax import config as configs
from relay_jax import config_io, files
from relay_jax.data.chain_files import chain_file
from relay_jax.relay.generate import write_chains
from relay_jax.tasks import make_task
from relay_jax.training import loop, run_dir

StageConfig = configs.TrainConfig | configs.ChainsConfig
STOPPED = 143  # the exit code of a process that has saved its state after SIGTERM


def all_stages(config: configs.RelayConfig) -> dict[str, StageConfig]:
    """The stages of an experiment by name."""
    return {**config.runs, **config.chains}


def dependencies(stage: StageConfig) -> set[str]:
    """The names of the stages whose results a stage starts from."""
    if isinstance(stage, configs.ChainsConfig):
        return {stage.model, stage.judge} - {""}
    chains = {b.path for b in stage.data.buckets.values() if b.kind == "chains"}
    return chains | ({stage.init_from} - {""})


def with_dependencies(
    stages: dict[str, StageConfig], names: Iterable[str]
) -> dict[str, StageConfig]:
    """The named stages and all that they depend on, in the order of `stages`.

    Raises:
      ValueError: there is no stage with one of the names.
    """
    found, remaining = set(), list(names)
    while remaining:
        name = remaining.pop()
        if name not in stages:
            raise ValueError(f"unknown stage {name!r}; choose from {', '.join(stages)}")
        found.add(name)
        remaining += dependencies(stages[name]) - found
    return {name: stage for name, stage in stages.items() if name in found}


def finished(stages: dict[str, StageConfig], path: epath.Path) -> set[str]:
    """The names of the stages that are finished.

    Raises:
      ValueError: the directory of a stage has another config.
    """
    for name, stage in stages.items():
        if (path / name / "config.json").exists():
            run_dir.open_run(path / name, stage)
    done = {name for name in stages if (path / name / "summary.json").exists()}
    runs = {n for n in done if isinstance(stages[n], configs.TrainConfig)}
    return done - {name for name in runs if not run_dir.is_finished(path / name)}


def progress(stage: StageConfig, workdir: epath.Path) -> tuple[int, int, str]:
    """The completed part of a stage, the whole, and the unit of both.

    A run that was killed may have to repeat its last steps.
    """
    if isinstance(stage, configs.ChainsConfig):
        task = make_task(stage.task, stage.options)
        lengths = [chain_file(workdir, task, int(length)) for length in stage.counts]
        return sum(file.exists() for file in lengths), len(lengths), "lengths"
    metrics = _last_metrics(workdir)
    return metrics["step"] if metrics else 0, stage.num_steps, "steps"


def _last_metrics(workdir: epath.Path) -> dict[str, Any] | None:
    file = workdir / "metrics.jsonl"
    lines = list(files.read_lines(file)) if file.exists() else []
    return lines[-1] if lines else None


def run_stages(
    stages: dict[str, StageConfig],
    path: epath.Path,
    jobs: int,
    deadline: float = math.inf,
) -> None:
    """Runs every stage as soon as its dependencies are finished, `jobs` at a time.

    Args:
      deadline: the value of `time.monotonic()`, in seconds, at which running stages save
        their state and stop.

    Raises:
      Stopped: the deadline passed before the last stage was finished.
      ValueError: a stage failed, or its directory has another config.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    done = finished(stages, path)
    if done:
        names = ", ".join(name for name in stages if name in done)
        print(f"finished already: {names}", flush=True)
    running: dict[str, BaseProcess] = {}
    pinned: dict[str, int] = {}
    runs = [s for s in stages.values() if isinstance(s, configs.TrainConfig)]
    total = sum(run.num_steps for run in runs)
    with _forwarded_signals(running), tqdm(total=total, unit="step") as bar:
        while len(done) < len(stages):
            if time.monotonic() >= deadline:
                _stop(running)
                raise loop.Stopped("out of time; run the same command to resume")
            waiting = [n for n in stages if n not in done and n not in running]
            ready = [n for n in waiting if dependencies(stages[n]) <= done]
            for name in ready[: jobs - len(running)]:
                if jobs > 1 and cores:
                    pinned[name] = cores.pop(0)
                running[name] = _start(stages[name], path / name, pinned.get(name))
            time.sleep(0.5)
            for name in [n for n, job in running.items() if job.exitcode is not None]:
                exit_code = running.pop(name).exitcode
                if name in pinned:
                    cores.append(pinned.pop(name))
                    cores.sort()
                if exit_code:
                    _stop(running)
                    _explain(name, exit_code, path)
                done.add(name)
            _show_progress(bar, stages, running, path)


def _start(stage: StageConfig, workdir: epath.Path, core: int | None) -> BaseProcess:
    """A new process that runs a stage, bound to a core if one is given."""
    context = multiprocessing.get_context("spawn")
    arguments = config_io.to_dict(stage), str(workdir), core
    process = context.Process(target=run_stage, args=arguments)
    process.start()
    return process


def run_stage(values: dict[str, Any], workdir: str, core: int | None) -> None:
    """Trains a model or generates chains; the main function of a stage's process."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    # If the parent is killed, its stages save and stop instead of continuing unseen.
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
        sys.exit(STOPPED)
    except (ValueError, FloatingPointError, OSError) as error:
        sys.exit(f"error: {error}")


def _stop_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _show_progress(bar, stages, running, path: epath.Path) -> None:
    """Shows the steps of all stages, and the running stages with their losses."""
    num_steps, shown = 0, []
    for name in stages:
        metrics = _last_metrics(path / name)
        num_steps += metrics["step"] if metrics else 0
        if name in running:
            state = f" {metrics['step']} loss {metrics['loss']:.3f}" if metrics else ""
            shown.append(name + state)
    bar.set_postfix_str(", ".join(shown), refresh=False)
    bar.update(num_steps - bar.n)
    bar.refresh()


def _explain(name: str, exit_code: int, path: epath.Path) -> None:
    """Raises an error with the reason for which a stage ended."""
    if exit_code in (STOPPED, -signal.SIGTERM):
        print("stopped; run the same command to resume", file=sys.stderr)
        sys.exit(STOPPED)
    log = path / name / "log.txt"
    text = log.read_bytes().decode(errors="replace").replace("\r", "\n")
    tail = text.strip().split("\n")[-3:]
    raise ValueError(f"stage {name} failed (see {log}):\n" + "\n".join(tail))


def _stop(running: dict[str, BaseProcess]) -> None:
    for job in running.values():
        job.terminate()
    for job in running.values():
        job.join()


@contextlib.contextmanager
def _forwarded_signals(running: dict[str, BaseProcess]) -> Iterator[None]:
    """Passes SIGINT and SIGTERM on to the stages, which then save and stop."""

    def forward(number, frame):
        _stop(running)
        print("\nstopped; run the same command to resume", file=sys.stderr)
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
