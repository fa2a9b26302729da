"""The training loop: the only one, for every model and stage.

Running the same command again resumes from the last checkpoint, and ends with exactly
the parameters of an uninterrupted run: the batch of a step, and its noise, are functions
of (seed, step).
"""

import contextlib
import functools
import time
from collections.abc import Callable

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh
from tqdm import tqdm

from relay_jax import config as configs
from relay_jax import files
from relay_jax.base import PyTree
from relay_jax.config import TrainConfig
from relay_jax.data import loader
from relay_jax.evaluation.evaluate import evaluate_run
from relay_jax.jax_settings import standard_settings
from relay_jax.models.sharding import (
    local_rows,
    make_mesh,
    param_shardings,
    shard_batch,
    with_shardings,
)
from relay_jax.training import checkpoint, run_dir
from relay_jax.training.metrics import MetricsWriter, Profiler, step_workload
from relay_jax.training.optimizer import trained_params
from relay_jax.training.preemption import Stopped, Vote, stop_requested
from relay_jax.training.step import (
    TrainState,
    init_params,
    init_state,
    make_train_step,
)
from relay_jax.training.validate import check


@standard_settings()
def train(
    config: TrainConfig, workdir: epath.PathLike, profile: range = range(0)
) -> dict:
    """Trains, or resumes training, and returns the run's summary.

    With several processes, each calls this with the same arguments, on one file system;
    the first one writes.

    Args:
      workdir: the run directory.
      profile: steps to be profiled, counted from 1.

    Raises:
      ValueError: the config, the data or the directory cannot be used; before training.
      Stopped: a process received SIGTERM or SIGINT; the state has been saved.
      FloatingPointError: the loss is not finite.
    """
    check(config, workdir)
    if profile and not 1 <= profile[0] <= profile[-1] <= config.num_steps:
        raise ValueError(
            f"a profile of the steps {profile[0]} to {profile[-1]} cannot be taken; the "
            f"run has the steps 1 to {config.num_steps}"
        )
    path = run_dir.open_run(workdir, config)
    if run_dir.is_finished(path):
        return files.read_json(path / "summary.json")
    mesh = make_mesh(config.mesh)
    like = with_shardings(jax.eval_shape(lambda: fresh_state(config)), mesh)
    checkpoint.check_room(path, like, config.keep_checkpoints)
    with checkpoint.make_manager(path, config.keep_checkpoints) as manager:
        state, seconds = first_state(config, path, manager, like, mesh)
        start = int(state.step)
        files.drop_lines_after(path / "metrics.jsonl", start)
        # The final records are always rewritten: a run may have ended after them.
        files.drop_lines_after(path / "records.jsonl", min(start, config.num_steps - 1))
        writer = MetricsWriter(path, config, mesh.size, start, seconds)
        profiler = Profiler(path, profile)
        with stop_requested() as is_stop_requested:
            state = train_steps(
                config, state, mesh, manager, writer, profiler, is_stop_requested
            )
        final = _evaluate(config, state.params, path, final=True)
        writer.write_accuracy(config.num_steps, final)
        summary = writer.summary(state, final)
    files.write_json(path / "summary.json", summary)
    writer.close()
    return summary


def fresh_state(config: TrainConfig) -> TrainState:
    """The state of a run before its first step."""
    return init_state(config, init_params(config))


def first_state(
    config: TrainConfig,
    path: epath.PathLike,
    manager: ocp.CheckpointManager,
    like: TrainState,
    mesh: Mesh,
) -> tuple[TrainState, float]:
    """The state to continue from, and the seconds of training until then.

    It is restored from a checkpoint, computed from the parameters of `init_from`, or
    initialized: sharded from the start, so that no device ever holds more than its shard.
    """
    restored = checkpoint.restore(manager, like)
    if restored:
        return restored
    make, arguments = functools.partial(fresh_state, config), ()
    if config.init_from:
        source = configs.resolve(config.init_from, path)
        make = functools.partial(init_state, config)
        arguments = (checkpoint.load_params(source, mesh)[1],)
    make = jax.jit(make, out_shardings=param_shardings(like, mesh))
    return make(*arguments), 0.0


def train_steps(
    config: TrainConfig,
    state: TrainState,
    mesh: Mesh,
    manager: ocp.CheckpointManager,
    writer: MetricsWriter,
    profiler: Profiler,
    is_stop_requested: Callable[[], bool],
) -> TrainState:
    """The state after all remaining steps, during which it is evaluated and saved.

    Raises:
      Stopped: a process was asked to stop.
    """
    train_step = make_train_step(config, param_shardings(state, mesh))
    start, stop = int(state.step), config.num_steps
    batch_size, vote = config.data.batch_size, Vote(mesh)
    saved_at = time.monotonic()
    steps = loader.steps(config, writer.path, start, stop, local_rows(mesh, batch_size))
    bar_options = {
        "initial": start,
        "unit": "step",
        "disable": not files.is_main_process(),
    }
    with (
        contextlib.closing(steps),
        tqdm(steps, config.name, stop, **bar_options) as bar,
    ):
        for now in bar:
            step = now.step + 1
            profiler.before_step(step)
            batch = shard_batch(now.batch, mesh, batch_size)
            state, metrics = train_step(
                state, batch, task=now.task, num_loops=now.num_loops
            )
            profiler.after_step(step, metrics)
            writer.add(step, metrics, step_workload(config, batch, now.num_loops))
            if step % config.log_every_steps == 0 or step == stop:
                bar.set_postfix(loss=f"{writer.write(step)['loss']:.4f}")
            if step % config.evaluation.every_steps == 0 and step < stop:
                _evaluate_now(config, state, step, writer)
            if step == stop:
                params = trained_params(state.params, state.opt_state)
                state = state._replace(params=params)
            is_due = time.monotonic() - saved_at > config.checkpoint_every_seconds
            is_due, stopping = vote(step, is_due, is_stop_requested())
            if is_due or stopping or step == stop:
                writer.check_finite()  # a useless checkpoint would replace a good one
                checkpoint.save(manager, state, writer.seconds())
                saved_at = time.monotonic()
            if stopping:
                profiler.after_step(step, metrics, is_last=True)
                break
    manager.wait_until_finished()
    # Also after the last step: the final evaluation is still to come.
    if any(vote.now(is_stop_requested())):
        step = int(state.step)
        raise Stopped(f"stopped at step {step}; run the same command to resume")
    return state


def _evaluate_now(
    config: TrainConfig, state: TrainState, step: int, writer: MetricsWriter
) -> None:
    """Writes the accuracy at a step; this time does not count as training."""
    began = time.monotonic()
    params = trained_params(state.params, state.opt_state)
    lines = _evaluate(config, params, writer.path, final=False)
    writer.write_accuracy(step, lines)
    writer.exclude(time.monotonic() - began)


def _evaluate(
    config: TrainConfig, params: PyTree, path: epath.Path, *, final: bool
) -> list[dict]:
    """Records of the accuracy; see `evaluate_run`."""
    count = config.evaluation.final if final else config.evaluation.during
    common = {"run": path.name, "model": config.name, "seed": config.seed}
    settings = {"count": count, "seed": config.seed, "final": final}
    return evaluate_run(config, params, path, common, **settings)
