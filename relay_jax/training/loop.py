"""The training loop: the only one, for every model and stage.

Running the same command again goes on from the last checkpoint, and ends with the very
parameters of a run that was never interrupted: a batch is a function of (seed, step),
and so is the noise of a step.
"""

import datetime
import math
import signal
import time
from collections.abc import Callable

import jax
from etils import epath
from tqdm import tqdm

from relay_jax import config as configs
from relay_jax import records
from relay_jax.config import TrainConfig
from relay_jax.data import pipeline
from relay_jax.evaluation.accuracy import DETAILS
from relay_jax.evaluation.run import evaluate_run
from relay_jax.training import checkpoint
from relay_jax.training.check import check
from relay_jax.training.devices import make_mesh, replicate, spread
from relay_jax.training.optimizer import trained_params
from relay_jax.training.step import (
    TrainState,
    init_params,
    init_state,
    make_train_step,
)


class Stopped(Exception):
    """The run was asked to stop; its state is saved."""


def train(config: TrainConfig, workdir: epath.PathLike) -> dict:
    """Trains, or goes on training, and returns the run's summary.

    Raises:
      ValueError: the config, the data or the directory cannot work; before training.
      Stopped: SIGTERM or SIGINT came; the state has been saved.
      FloatingPointError: the loss is not finite.
    """
    check(config, workdir)
    path = checkpoint.open_run(workdir, config)
    done = path / "summary.json"
    if checkpoint.is_finished(path):
        return records.read_json(done)
    with checkpoint.make_manager(path, config.keep_checkpoints) as manager:
        state, spent = _first_state(config, path, manager)
        start = int(state.step)
        records.keep_until(path / "metrics.jsonl", start)
        # The final records are always written anew: a run may have ended after them.
        records.keep_until(path / "records.jsonl", min(start, config.num_steps - 1))
        log = _Log(path, config, start, spent)
        with _stop_requested() as asked:
            state = _run(config, state, manager, log, asked)
        final = _evaluate(config, state.params, path, final=True)
        log.accuracy(config.num_steps, final)
        summary = log.summary(state, final)
    records.write_json(done, summary)
    log.close()
    return summary


def _first_state(config, path, manager) -> tuple[TrainState, float]:
    like = jax.eval_shape(lambda: init_state(config, init_params(config)))
    found = checkpoint.restore(manager, like)
    if found:
        return found
    if config.init_from:
        _, params = checkpoint.load_params(configs.resolve(config.init_from, path))
    else:
        params = init_params(config)
    return init_state(config, params), 0.0


def _run(config, state, manager, log, asked) -> TrainState:
    """The steps that are left."""
    train_step = make_train_step(config)
    start, stop = int(state.step), config.num_steps
    mesh = make_mesh(config.data.num_devices)
    state = replicate(state, mesh)
    saved_at = time.monotonic()
    work = pipeline.steps(config, log.path, start, stop)
    with tqdm(work, config.name, stop, initial=start, unit="step") as bar:
        for now in bar:
            batch = spread(now.batch, mesh)
            state, metrics = train_step(
                state, batch, task=now.task, num_loops=now.num_loops
            )
            step = now.step + 1
            if step % config.log_every_steps == 0 or step == stop:
                values = log.metrics(step, jax.device_get(metrics))
                bar.set_postfix(loss=f"{values['loss']:.4f}")
            if step % config.evaluation.every_steps == 0 and step < stop:
                params = trained_params(state.params, state.opt_state)
                lines = _evaluate(config, params, log.path, final=False)
                log.accuracy(step, lines)
            if step == stop:
                params = trained_params(state.params, state.opt_state)
                state = state._replace(params=params)
            late = time.monotonic() - saved_at > config.checkpoint_every_seconds
            stopping = asked()
            if late or stopping or step == stop:
                checkpoint.save(manager, state, log.seconds())
                saved_at = time.monotonic()
            if stopping:
                break
    manager.wait_until_finished()
    if asked():  # after the last step too: what is left then is the final evaluation
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
        self.board = SummaryWriter(str(path / "tensorboard"), purge_step=start)

    def seconds(self) -> float:
        return self.spent + time.monotonic() - self.began

    def metrics(self, step, metrics) -> dict:
        values = {name: float(value) for name, value in metrics.items()}
        if not math.isfinite(values["loss"]):
            raise FloatingPointError(
                f"the loss is {values['loss']} by step {step}; lower "
                "optimizer.learning_rate, or go on from the last checkpoint"
            )
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
            "params_sha256": checkpoint.hash_params(state.params),
            "device": jax.devices()[0].device_kind,
            "finished": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
            "final": _whole(lines),
        }

    def close(self) -> None:
        self.board.close()


def _whole(lines: list[dict]) -> list[dict]:
    """Without the records of single rounds and places: records.jsonl has those."""
    return [line for line in lines if line["metric"] not in DETAILS]


class _stop_requested:
    """While open, SIGTERM and SIGINT only leave a note; a second one acts as usual."""

    def __enter__(self) -> Callable[[], bool]:
        self.asked = False
        self.before = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            self.before[number] = signal.signal(number, self._note)
        return lambda: self.asked

    def _note(self, number, frame):
        self.asked = True
        signal.signal(number, self.before[number])

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)
