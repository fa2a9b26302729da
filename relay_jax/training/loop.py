"""The training loop: the only one, for every model and stage.

Running the same command again goes on from the last checkpoint, and ends with the very
parameters of a run that was never interrupted: a batch is a function of (seed, step),
and so is the noise of a step.
"""

import contextlib
import functools
import time

import jax
from etils import epath
from jax.sharding import Mesh
from tqdm import tqdm

from relay_jax import config as configs
from relay_jax import files
from relay_jax.config import TrainConfig
from relay_jax.data import loader
from relay_jax.evaluation.evaluate import evaluate_run
from relay_jax.models.sharding import (
    local_rows,
    make_mesh,
    param_shardings,
    shard_batch,
    with_shardings,
)
from relay_jax.training import checkpoint, run_dir
from relay_jax.training.metrics import Log, Trace, measure
from relay_jax.training.optimizer import trained_params
from relay_jax.training.preemption import Stopped, Vote, stop_requested
from relay_jax.training.step import (
    TrainState,
    init_params,
    init_state,
    make_train_step,
)
from relay_jax.training.validate import check


def train(
    config: TrainConfig, workdir: epath.PathLike, profile: range = range(0)
) -> dict:
    """Trains, or goes on training, and returns the run's summary.

    Of several processes each calls this alike, on one file system; the first one writes.

    Args:
      profile: steps of which a trace is written to the directory; the first step is 1.

    Raises:
      ValueError: the config, the data or the directory cannot work; before training.
      Stopped: SIGTERM or SIGINT came to any process; the state has been saved.
      FloatingPointError: the loss is not finite.
    """
    check(config, workdir)
    if profile and not 1 <= profile[0] <= profile[-1] <= config.num_steps:
        raise ValueError(
            f"a profile of the steps {profile[0]} to {profile[-1]} cannot be taken; the "
            f"run has the steps 1 to {config.num_steps}"
        )
    path = run_dir.open_run(workdir, config)
    done = path / "summary.json"
    if run_dir.is_finished(path):
        return files.read_json(done)
    mesh, trace = make_mesh(config.mesh), Trace(path, profile)
    like = with_shardings(jax.eval_shape(lambda: _begin(config)), mesh)
    checkpoint.check_room(path, like, config.keep_checkpoints)
    with checkpoint.make_manager(path, config.keep_checkpoints) as manager:
        state, spent = _first_state(config, path, manager, like, mesh)
        start = int(state.step)
        files.drop_lines_after(path / "metrics.jsonl", start)
        # The final records are always written anew: a run may have ended after them.
        files.drop_lines_after(path / "records.jsonl", min(start, config.num_steps - 1))
        log = Log(path, config, mesh.size, start, spent)
        with stop_requested() as asked:
            state = _run(config, state, mesh, manager, log, asked, trace)
        final = _evaluate(config, state.params, path, final=True)
        log.accuracy(config.num_steps, final)
        summary = log.summary(state, final)
    files.write_json(done, summary)
    log.close()
    return summary


def _begin(config: TrainConfig) -> TrainState:
    return init_state(config, init_params(config))


def _first_state(config, path, manager, like, mesh) -> tuple[TrainState, float]:
    """The state to go on from: made, or read, where it lies on the mesh; no device
    ever holds more of it than that."""
    found = checkpoint.restore(manager, like)
    if found:
        return found
    begin, arguments = functools.partial(_begin, config), ()
    if config.init_from:
        source = configs.resolve(config.init_from, path)
        begin = functools.partial(init_state, config)
        arguments = (checkpoint.load_params(source, mesh)[1],)
    return jax.jit(begin, out_shardings=param_shardings(like, mesh))(*arguments), 0.0


def _run(config, state, mesh: Mesh, manager, log, asked, trace) -> TrainState:
    """The steps that are left."""
    train_step = make_train_step(config, param_shardings(state, mesh))
    start, stop = int(state.step), config.num_steps
    batch_size, vote = config.data.batch_size, Vote(mesh)
    saved_at = time.monotonic()
    work = loader.steps(config, log.path, start, stop, local_rows(mesh, batch_size))
    bar_settings = {
        "initial": start,
        "unit": "step",
        "disable": not files.is_main_process(),
    }
    with contextlib.closing(work), tqdm(work, config.name, stop, **bar_settings) as bar:
        for now in bar:
            trace.before(now.step + 1)
            batch = shard_batch(now.batch, mesh, batch_size)
            state, metrics = train_step(
                state, batch, task=now.task, num_loops=now.num_loops
            )
            step = now.step + 1
            trace.after(step, metrics)
            log.note(step, metrics, measure(config, batch, now.num_loops))
            if step % config.log_every_steps == 0 or step == stop:
                values = log.metrics(step)
                bar.set_postfix(loss=f"{values['loss']:.4f}")
            if step % config.evaluation.every_steps == 0 and step < stop:
                began = time.monotonic()
                params = trained_params(state.params, state.opt_state)
                lines = _evaluate(config, params, log.path, final=False)
                log.accuracy(step, lines)
                log.pause(time.monotonic() - began)
            if step == stop:
                params = trained_params(state.params, state.opt_state)
                state = state._replace(params=params)
            late = time.monotonic() - saved_at > config.checkpoint_every_seconds
            late, stopping = vote(step, late, asked())
            if late or stopping or step == stop:
                log.check()  # a checkpoint of no use would drive out a good one
                checkpoint.save(manager, state, log.seconds())
                saved_at = time.monotonic()
            if stopping:
                trace.after(step, metrics, is_last=True)
                break
    manager.wait_until_finished()
    if any(vote.now(asked())):  # after the last step too: the evaluation is left then
        step = int(state.step)
        raise Stopped(f"stopped at step {step}; run the same command to go on")
    return state


def _evaluate(config, params, path, *, final: bool) -> list[dict]:
    count = config.evaluation.final if final else config.evaluation.during
    metadata = {"run": path.name, "model": config.name, "seed": config.seed}
    work = {"count": count, "seed": config.seed, "final": final}
    return evaluate_run(config, params, path, metadata, **work)
