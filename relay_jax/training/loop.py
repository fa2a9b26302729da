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
from relay_jax.arrays import PyTree
from relay_jax.config import TrainConfig
from relay_jax.data import pipeline
from relay_jax.data.text import open_windows
from relay_jax.evaluation import accuracy
from relay_jax.evaluation.text import make_text_records
from relay_jax.training import checkpoint
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
    if done.exists():
        return records.read_json(done)
    with checkpoint.make_manager(path, config.keep_checkpoints) as manager:
        state, spent = _first_state(config, path, manager)
        start = int(state.step)
        for name in ("metrics.jsonl", "records.jsonl"):
            records.keep_until(path / name, start)
        log = _Log(path, config, start, spent)
        with _stop_requested() as asked:
            state = _run(config, state, manager, log, asked)
        final = evaluate_run(config, state.params, path, final=True)
        log.accuracy(config.num_steps, final)
        summary = log.summary(state, final)
    records.write_json(done, summary)
    log.close()
    return summary


def check(config: TrainConfig, workdir: epath.PathLike) -> None:
    """Raises ValueError at whatever is wrong with a config, before any long work."""
    model = config.model
    if not model.head_dim and model.dim % model.num_heads:
        raise ValueError(
            f"model.dim ({model.dim}) must be a multiple of model.num_heads "
            f"({model.num_heads})"
        )
    if model.feedback == "soft" and model.differences:
        raise ValueError(
            "model.differences needs model.feedback='discrete': a difference of two "
            "soft numbers is not defined"
        )
    if config.data.batch_size < 1 or config.num_steps < 1:
        raise ValueError(
            "data.batch_size and num_steps must be 1 or more, got "
            f"{config.data.batch_size} and {config.num_steps}"
        )
    for bucket in pipeline.open_buckets(config, workdir):
        shift = config.loss.max_shift.get(bucket.task.name, 0)
        if shift and isinstance(bucket, pipeline.Bucket):
            _check_shift(bucket, shift, model.num_numbers)
    for name, lengths in config.evaluation.lengths.items():
        task = pipeline.make_task(name, config.evaluation.options.get(name, {}))
        pipeline.check_lengths(task, lengths, model)
    if config.evaluation.text:
        _held_out(config, workdir)


def _check_shift(bucket: pipeline.Bucket, shift: int, num_numbers: int) -> None:
    largest = bucket.task.max_number(bucket.longest)
    if largest + shift >= num_numbers:
        raise ValueError(
            f"{bucket.task.name}: numbers up to {largest}, raised by up to {shift} "
            f"(loss.max_shift), pass the vocabulary's last, {num_numbers - 1}; "
            "raise model.num_numbers"
        )


def _first_state(config, path, manager) -> tuple[TrainState, float]:
    if config.init_from:
        _, params = checkpoint.load_params(configs.resolve(config.init_from, path))
    else:
        params = init_params(config)
    state = init_state(config, params)
    return checkpoint.restore(manager, state) or (state, 0.0)


def _run(config, state, manager, log, asked) -> TrainState:
    """The steps that are left."""
    train_step = make_train_step(config)
    start, stop = int(state.step), config.num_steps
    saved_at = time.monotonic()
    work = pipeline.steps(config, log.path, start, stop)
    with tqdm(work, config.name, stop, initial=start, unit="step") as bar:
        for now in bar:
            state, metrics = train_step(
                state, now.batch, task=now.task, num_loops=now.num_loops
            )
            step = now.step + 1
            if step % config.log_every_steps == 0 or step == stop:
                values = log.metrics(step, jax.device_get(metrics))
                bar.set_postfix(loss=f"{values['loss']:.4f}")
            if step % config.evaluation.every_steps == 0 and step < stop:
                lines = evaluate_run(config, state.params, log.path, final=False)
                log.accuracy(step, lines)
            late = time.monotonic() - saved_at > config.checkpoint_every_seconds
            if late or asked() or step == stop:
                checkpoint.save(manager, state, log.seconds())
                saved_at = time.monotonic()
            if asked() and step < stop:
                manager.wait_until_finished()
                raise Stopped(f"stopped at step {step}; run the same command to go on")
    manager.wait_until_finished()
    return state


def evaluate_run(
    config: TrainConfig, params: PyTree, path: epath.Path, *, final: bool
) -> list[dict]:
    """Records over the config's evaluation lengths, and on its held-out text."""
    settings, lines = config.evaluation, []
    count = settings.final if final else settings.during
    about = {"run": path.name, "model": config.name, "seed": config.seed}
    for name, bounds in settings.lengths.items():
        task = pipeline.make_task(name, settings.options.get(name, {}))
        lengths = settings.steps_to(name, bounds)
        problems = accuracy.test_problems(
            task, lengths, count, config.seed, final=final
        )
        scored = accuracy.score(
            params, config.model, task, problems, settings.batch_size
        )
        lines += accuracy.make_records(scored, about | {"task": name})
    if settings.text:
        windows = _held_out(config, path)
        work = (params, config.model, windows, count, settings.batch_size)
        lines += make_text_records(*work, about | {"task": "text"})
    return lines


def _held_out(config: TrainConfig, path: epath.PathLike):
    """The held-out text. Raises ValueError where it is missing or of other words."""
    settings = config.evaluation
    file = epath.Path(path) / settings.text
    return open_windows(file, settings.context, config.model.num_words)


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
        for line in lines:
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
            "final": lines,
        }

    def close(self) -> None:
        self.board.close()


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
