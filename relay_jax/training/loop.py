"""The training loop: the only one, for every model and stage.

Running the same command again goes on from the last checkpoint, and ends with the very
parameters of a run that was never interrupted: a batch is a function of (seed, step),
and so is the noise of a step.
"""

import datetime
import functools
import math
import time

import jax
from etils import epath
from jax.sharding import Mesh
from tqdm import tqdm

from relay_jax import config as configs
from relay_jax import records
from relay_jax.config import TrainConfig
from relay_jax.data import pipeline
from relay_jax.evaluation.accuracy import DETAILS
from relay_jax.evaluation.run import evaluate_run
from relay_jax.models.mesh import layout, make_mesh, own_rows, place, spread
from relay_jax.training import checkpoint
from relay_jax.training.check import check
from relay_jax.training.optimizer import trained_params
from relay_jax.training.step import (
    TrainState,
    init_params,
    init_state,
    make_train_step,
)
from relay_jax.training.stop import Stopped, Vote, stop_requested


def train(config: TrainConfig, workdir: epath.PathLike) -> dict:
    """Trains, or goes on training, and returns the run's summary.

    Of several processes each calls this alike, on one file system; the first one writes.

    Raises:
      ValueError: the config, the data or the directory cannot work; before training.
      Stopped: SIGTERM or SIGINT came to any process; the state has been saved.
      FloatingPointError: the loss is not finite.
    """
    check(config, workdir)
    path = checkpoint.open_run(workdir, config)
    done = path / "summary.json"
    if checkpoint.is_finished(path):
        return records.read_json(done)
    mesh = make_mesh(config.mesh)
    like = place(jax.eval_shape(lambda: _begin(config)), mesh)
    checkpoint.check_room(path, like, config.keep_checkpoints)
    with checkpoint.make_manager(path, config.keep_checkpoints) as manager:
        state, spent = _first_state(config, path, manager, like, mesh)
        start = int(state.step)
        records.keep_until(path / "metrics.jsonl", start)
        # The final records are always written anew: a run may have ended after them.
        records.keep_until(path / "records.jsonl", min(start, config.num_steps - 1))
        log = _Log(path, config, start, spent)
        with stop_requested() as asked:
            state = _run(config, state, mesh, manager, log, asked)
        final = _evaluate(config, state.params, path, final=True)
        log.accuracy(config.num_steps, final)
        summary = log.summary(state, final)
    records.write_json(done, summary)
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
    begin, given = functools.partial(_begin, config), ()
    if config.init_from:
        source = configs.resolve(config.init_from, path)
        begin = functools.partial(init_state, config)
        given = (checkpoint.load_params(source, mesh)[1],)
    return jax.jit(begin, out_shardings=layout(like, mesh))(*given), 0.0


def _run(config, state, mesh: Mesh, manager, log, asked) -> TrainState:
    """The steps that are left."""
    train_step = make_train_step(config, layout(state, mesh))
    start, stop = int(state.step), config.num_steps
    batch_size, vote = config.data.batch_size, Vote(mesh)
    saved_at = time.monotonic()
    work = pipeline.steps(config, log.path, start, stop, own_rows(mesh, batch_size))
    with tqdm(
        *(work, config.name, stop),
        initial=start,
        unit="step",
        disable=not records.is_first(),
    ) as bar:
        for now in bar:
            batch = spread(now.batch, mesh, batch_size)
            state, metrics = train_step(
                state, batch, task=now.task, num_loops=now.num_loops
            )
            step = now.step + 1
            log.note(step, metrics)
            if step % config.log_every_steps == 0 or step == stop:
                values = log.metrics(step)
                bar.set_postfix(loss=f"{values['loss']:.4f}")
            if step % config.evaluation.every_steps == 0 and step < stop:
                params = trained_params(state.params, state.opt_state)
                lines = _evaluate(config, params, log.path, final=False)
                log.accuracy(step, lines)
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
                break
    manager.wait_until_finished()
    if any(vote.now(asked())):  # after the last step too: the evaluation is left then
        step = int(state.step)
        raise Stopped(f"stopped at step {step}; run the same command to go on")
    return state


def _evaluate(config, params, path, *, final: bool) -> list[dict]:
    count = config.evaluation.final if final else config.evaluation.during
    about = {"run": path.name, "model": config.name, "seed": config.seed}
    work = {"count": count, "seed": config.seed, "final": final}
    return evaluate_run(config, params, path, about, **work)


class _Log:
    """Where a run's measurements go: JSON lines and TensorBoard."""

    def __init__(self, path, config, start, spent):
        from tensorboardX import SummaryWriter

        self.path, self.config = path, config
        self.spent, self.began = spent, time.monotonic()
        self.last = (start, self.began)
        self.unread: dict[int, dict] = {}  # metrics by step, still on the device
        self.board = SummaryWriter(
            str(path / "tensorboard"),
            purge_step=start,
            write_to_disk=records.is_first(),
        )

    def seconds(self) -> float:
        return self.spent + time.monotonic() - self.began

    def note(self, step, metrics) -> None:
        self.unread[step] = metrics

    def check(self) -> dict[str, float]:
        """Reads what was noted: the metrics of the last step.

        Raises:
          FloatingPointError: loss or gradient of a step is not finite.
        """
        values = {}
        for step, read in jax.device_get(self.unread).items():
            values = {name: float(value) for name, value in read.items()}
            for name in ("loss", "grad_norm"):
                if not math.isfinite(values[name]):
                    raise FloatingPointError(
                        f"{name} is {values[name]} at step {step}; the checkpoints in "
                        f"{self.path} are of steps before it: start a new run with a "
                        "lower optimizer.learning_rate, from them (init_from) or anew"
                    )
        self.unread = {step: self.unread[step] for step in list(self.unread)[-1:]}
        return values

    def metrics(self, step) -> dict:
        values = self.check()
        then, now = self.last, (step, time.monotonic())
        self.last = now
        speed = (step - then[0]) / max(now[1] - then[1], 1e-9)
        values |= {"steps_per_second": speed, "seconds": self.seconds()}
        records.append_lines(self.path / "metrics.jsonl", [{"step": step, **values}])
        for name, value in values.items():
            self.board.add_scalar(f"train/{name}", value, step)
        return values

    def accuracy(self, step, lines) -> None:
        lines = [line | {"step": step} for line in lines]
        records.append_lines(self.path / "records.jsonl", lines)
        for line in _whole(lines):
            name = f"{line['task']}/{line['metric']}/{line['length']}"
            self.board.add_scalar(name, line["value"], step)

    def summary(self, state, lines) -> dict:
        return {
            "name": self.config.name,
            "steps": int(state.step),
            "seconds": round(self.seconds(), 1),
            "num_params": sum(x.size for x in jax.tree.leaves(state.params)),
            "params_sha256": checkpoint.hash_trained(state.params),
            "device": jax.devices()[0].device_kind,
            "finished": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
            "final": _whole(lines),
        }

    def close(self) -> None:
        self.board.close()


def _whole(lines: list[dict]) -> list[dict]:
    """Without the records of single rounds and places: records.jsonl has those."""
    return [line for line in lines if line["metric"] not in DETAILS]
