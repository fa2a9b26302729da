"""Where a run's measurements go: JSON lines, TensorBoard, and a trace of some steps."""

import datetime
import math
import resource
import time
from typing import NamedTuple

import jax
from etils import epath

from relay_jax import files
from relay_jax.base import DecoderBatch, LoopedBatch
from relay_jax.config import TrainConfig
from relay_jax.evaluation.accuracy import DETAILS
from relay_jax.evaluation.flops import step_flops
from relay_jax.training import checkpoint

# Dense bfloat16 operations a second of a device, by a part of its name (data sheets).
PEAKS = {
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
}


class Work(NamedTuple):
    """What has been computed."""

    examples: int = 0
    tokens: int = 0  # positions, those of all loops
    flops: int = 0  # that the model needs, see `evaluation.flops`


def measure(
    config: TrainConfig, batch: LoopedBatch | DecoderBatch, num_loops: int
) -> Work:
    """The work of one step."""
    is_looped = isinstance(batch, LoopedBatch)
    examples, width = batch.problem.shape if is_looped else batch.tokens.shape
    width -= not is_looped  # the last token of a text predicts nothing
    loops = num_loops if is_looped else 1
    told = batch.rounds.shape[-1] if isinstance(batch, LoopedBatch) else width
    flops = step_flops(config, examples, width, loops, told)
    return Work(examples, examples * width * loops, flops)


class Trace:
    """A profile of some steps in DIR/profile, for TensorBoard or Perfetto."""

    def __init__(self, folder: epath.Path, steps: range):
        self.folder, self.steps, self.is_on = folder / "profile", steps, False

    def before(self, step: int) -> None:
        """Begins at the first of the steps that this process takes: it may go on within."""
        if step in self.steps and not self.is_on:
            jax.profiler.start_trace(str(self.folder))
            self.is_on = True

    def after(self, step: int, metrics: dict, is_last: bool = False) -> None:
        """`is_last`: the process stops."""
        if self.is_on and (is_last or step == self.steps[-1]):
            jax.block_until_ready(metrics)
            jax.profiler.stop_trace()
            self.is_on = False


class Log:
    """The measurements of one run."""

    def __init__(
        self,
        path: epath.Path,
        config: TrainConfig,
        num_devices: int,
        start: int,
        spent: float,
    ):
        from tensorboardX import SummaryWriter

        self.path, self.config, self.num_devices = path, config, num_devices
        self.spent, self.began = spent, time.monotonic()
        self.last = (start, self.began)
        self.unread: dict[int, dict] = {}  # metrics by step, still on the device
        self.work = Work()  # since the last line
        self.board = SummaryWriter(
            str(path / "tensorboard"),
            purge_step=start,
            write_to_disk=files.is_main_process(),
        )

    def seconds(self) -> float:
        return self.spent + time.monotonic() - self.began

    def note(self, step: int, metrics: dict, work: Work) -> None:
        """Keeps what a step says, without waiting for it."""
        self.unread[step] = metrics
        self.work = Work(*map(sum, zip(self.work, work)))

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
        values |= self._speed(step - then[0], max(now[1] - then[1], 1e-9))
        values["seconds"] = self.seconds()
        files.append_lines(self.path / "metrics.jsonl", [{"step": step, **values}])
        for name, value in values.items():
            self.board.add_scalar(f"train/{name}", value, step)
        return values

    def _speed(self, steps: int, seconds: float) -> dict[str, float]:
        """Of all devices: rates, the share of their peak, and the memory of one."""
        work, self.work = self.work, Work()
        rate = work.flops / seconds
        found = {
            "steps_per_second": steps / seconds,
            "examples_per_second": work.examples / seconds,
            "tokens_per_second": work.tokens / seconds,
            "teraflops_per_second": rate / 1e12,
            "memory_gigabytes": _memory() / 1e9,
        }
        kind, count = jax.devices()[0].device_kind, self.num_devices
        peaks = [peak for name, peak in PEAKS.items() if name in kind]
        if peaks:
            found["flop_utilisation"] = rate / (peaks[0] * count)
        return found

    def pause(self, seconds: float) -> None:
        """What was no training does not count in the speed."""
        step, then = self.last
        self.last = step, then + seconds

    def accuracy(self, step, lines) -> None:
        lines = [line | {"step": step} for line in lines]
        files.append_lines(self.path / "records.jsonl", lines)
        for line in _whole(lines):
            name = f"{line['task']}/{line['metric']}/{line['length']}"
            self.board.add_scalar(name, line["value"], step)

    def summary(self, state, lines) -> dict:
        return {
            "name": self.config.name,
            "steps": int(state.step),
            "seconds": round(self.seconds(), 1),
            "num_params": sum(x.size for x in jax.tree.leaves(state.params)),
            "params_sha256": checkpoint.hash_global_params(state.params),
            "device": jax.devices()[0].device_kind,
            "finished": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
            "final": _whole(lines),
        }

    def close(self) -> None:
        self.board.close()


def _memory() -> int:
    """The most bytes that a device has held; on a CPU, that this process has."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _whole(lines: list[dict]) -> list[dict]:
    """Without the records of single rounds and places: records.jsonl has those."""
    return [line for line in lines if line["metric"] not in DETAILS]
