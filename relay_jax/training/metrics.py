"""Metrics of a run: JSON lines, TensorBoard, and a profile of some of its steps."""

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
from relay_jax.training.step import TrainState

# Peak dense bfloat16 operations per second of a device, by a part of its name (data sheets).
PEAK_FLOPS = {
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
}


class Workload(NamedTuple):
    """What one or several steps compute."""

    examples: int = 0
    tokens: int = 0  # positions, in all loops
    flops: int = 0  # operations that the model requires; see `evaluation.flops`


def step_workload(
    config: TrainConfig, batch: LoopedBatch | DecoderBatch, num_loops: int
) -> Workload:
    """The workload of one training step."""
    if isinstance(batch, LoopedBatch):
        examples, width = batch.problem.shape
        loops, columns = num_loops, batch.rounds.shape[-1]
    else:
        examples, width = batch.tokens.shape
        width -= 1  # the last token of a text predicts nothing
        loops, columns = 1, width
    flops = step_flops(config, examples, width, loops, columns)
    return Workload(examples, examples * width * loops, flops)


class Profiler:
    """Writes a profile of some steps to DIR/profile, for TensorBoard or Perfetto."""

    def __init__(self, folder: epath.Path, steps: range):
        self.folder, self.steps, self.is_on = folder / "profile", steps, False

    def before_step(self, step: int) -> None:
        """Starts at the first profiled step that this process runs."""
        if step in self.steps and not self.is_on:
            jax.profiler.start_trace(str(self.folder))
            self.is_on = True

    def after_step(self, step: int, metrics: dict, is_last: bool = False) -> None:
        """Stops after the last profiled step, or when the process stops (`is_last`)."""
        if self.is_on and (is_last or step == self.steps[-1]):
            jax.block_until_ready(metrics)
            jax.profiler.stop_trace()
            self.is_on = False


class MetricsWriter:
    """Writes the metrics of one run, and its accuracy, to its directory.

    Args:
      path: the run directory.
      num_devices: the number of devices that the run uses.
      start: the number of steps that were done before this process.
      seconds: the seconds of training before this process.
    """

    def __init__(
        self,
        path: epath.Path,
        config: TrainConfig,
        num_devices: int,
        start: int,
        seconds: float,
    ):
        from tensorboardX import SummaryWriter

        self.path, self.config, self.num_devices = path, config, num_devices
        self.earlier_seconds, self.began = seconds, time.monotonic()
        self.last_line = (start, self.began)  # step and time
        self.pending: dict[int, dict] = {}  # metrics by step, still on the device
        self.workload = Workload()  # since the last line
        self.board = SummaryWriter(
            str(path / "tensorboard"),
            purge_step=start,
            write_to_disk=files.is_main_process(),
        )

    def seconds(self) -> float:
        """Seconds of the run so far, those of earlier processes included."""
        return self.earlier_seconds + time.monotonic() - self.began

    def add(self, step: int, metrics: dict, workload: Workload) -> None:
        """Queues the metrics of a step without waiting for them."""
        self.pending[step] = metrics
        self.workload = Workload(*map(sum, zip(self.workload, workload)))

    def check_finite(self) -> dict[str, float]:
        """The metrics of the last step, after a check of all that are queued.

        Raises:
          FloatingPointError: loss or gradient of a step is not finite.
        """
        values = {}
        for step, metrics in jax.device_get(self.pending).items():
            values = {name: float(value) for name, value in metrics.items()}
            for name in ("loss", "grad_norm"):
                if not math.isfinite(values[name]):
                    raise FloatingPointError(
                        f"{name} is {values[name]} at step {step}; the checkpoints in "
                        f"{self.path} are of steps before it: start a new run with a "
                        "lower optimizer.learning_rate, from one of them (init_from) or "
                        "from scratch"
                    )
        self.pending = {step: self.pending[step] for step in list(self.pending)[-1:]}
        return values

    def write(self, step: int) -> dict[str, float]:
        """Writes and returns the metrics of the last step, with the speed.

        The speed is the average since the previous line.

        Raises:
          FloatingPointError: see `check_finite`.
        """
        values = self.check_finite()
        (last_step, last_time), now = self.last_line, time.monotonic()
        self.last_line = step, now
        values |= self._speed(step - last_step, max(now - last_time, 1e-9))
        values["seconds"] = self.seconds()
        files.append_lines(self.path / "metrics.jsonl", [{"step": step, **values}])
        for name, value in values.items():
            self.board.add_scalar(f"train/{name}", value, step)
        return values

    def _speed(self, steps: int, seconds: float) -> dict[str, float]:
        """Rates and the share of peak FLOP/s of all devices, and the memory of one."""
        workload, self.workload = self.workload, Workload()
        flops_per_second = workload.flops / seconds
        speed = {
            "steps_per_second": steps / seconds,
            "examples_per_second": workload.examples / seconds,
            "tokens_per_second": workload.tokens / seconds,
            "teraflops_per_second": flops_per_second / 1e12,
            "memory_gigabytes": _peak_memory() / 1e9,
        }
        kind = jax.devices()[0].device_kind
        peaks = [peak for name, peak in PEAK_FLOPS.items() if name in kind]
        if peaks:
            speed["flop_utilisation"] = flops_per_second / (peaks[0] * self.num_devices)
        return speed

    def exclude(self, seconds: float) -> None:
        """Excludes seconds that were not spent on training from the speed."""
        step, then = self.last_line
        self.last_line = step, then + seconds

    def write_accuracy(self, step: int, lines: list[dict]) -> None:
        """Appends records of an evaluation at a step."""
        lines = [line | {"step": step} for line in lines]
        files.append_lines(self.path / "records.jsonl", lines)
        for line in _aggregates(lines):
            name = f"{line['task']}/{line['metric']}/{line['length']}"
            self.board.add_scalar(name, line["value"], step)

    def summary(self, state: TrainState, lines: list[dict]) -> dict:
        """The contents of summary.json; with several processes, all must call this."""
        return {
            "name": self.config.name,
            "steps": int(state.step),
            "seconds": round(self.seconds(), 1),
            "num_params": sum(x.size for x in jax.tree.leaves(state.params)),
            "params_sha256": checkpoint.hash_global_params(state.params),
            "device": jax.devices()[0].device_kind,
            "finished": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
            "final": _aggregates(lines),
        }

    def close(self) -> None:
        """Closes TensorBoard's file."""
        self.board.close()


def _peak_memory() -> int:
    """The peak memory of a device in bytes; on a CPU, that of this process."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _aggregates(lines: list[dict]) -> list[dict]:
    """The records that are not of single rounds or positions."""
    return [line for line in lines if line["metric"] not in DETAILS]
