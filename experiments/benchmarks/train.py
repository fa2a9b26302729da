"""What a training step costs, beside the same step in PyTorch.

    python -m experiments.benchmarks.train --peer --records=FILE.jsonl \
        --config=experiments/configs/quickstart.py:arithmetic/looped_aligned

Measured is the project's own step on batches of its own pipeline, for each bucket of the
config; what the pipeline alone can make stands beside it. `--peer` times the model of
experiments/benchmarks/torch_baseline.py in turns with ours, so that noise meets both alike; it has AdamW
only, so a config with Muon is then measured with AdamW on both sides. On a small machine
take smaller batches: `--batch_size=16`. Where other work runs too, leave both one core
(`taskset -c 0 python ...`) and compare CPU times: PyTorch's threads wait for one another.
"""

import collections
import dataclasses
import importlib.metadata
import importlib.util
import os
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from experiments import command
from relay_jax import files
from relay_jax.config import BucketConfig, TrainConfig
from relay_jax.data import loader
from relay_jax.data.buckets import check_buckets
from relay_jax.evaluation.flops import step_flops
from relay_jax.models.sharding import make_mesh, param_shardings, shard_batch
from relay_jax.rest import roofline
from relay_jax.training.step import init_params, init_state, make_train_step
from relay_jax.training.validate import check_devices, check_settings

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment's file.")
_WORKDIR = flags.DEFINE_string("workdir", ".", "Beside it are the chains of a bucket.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 0, "0: the config's.", 0)
_STEPS = flags.DEFINE_integer("steps", 10, "Steps of one measurement.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Measurements; the median counts.", 1)
_PEER = flags.DEFINE_bool("peer", False, "Time PyTorch too.")
_COMPILE = flags.DEFINE_bool("compile", False, "And torch.compile (needs minutes).")
_TRACE = flags.DEFINE_string("trace", "", "A directory for a profile of some steps.")
_RECORDS = flags.DEFINE_string("records", "", "A file that lines are appended to.")
flags.mark_flag_as_required("config")
SETTINGS = {"GLIBC_TUNABLES", "OMP_NUM_THREADS", "XLA_FLAGS"}  # that change times


class Work(NamedTuple):
    """Batches of one shape: the most frequent one of a bucket."""

    steps: list[loader.Step]
    share: float  # of the bucket's batches that have this shape
    batches_per_second: float  # that the pipeline makes


class Side(NamedTuple):
    """One of those that are timed."""

    run: Callable[[], None]  # all of the work's steps, to their end
    compile_seconds: float
    memory: int | None  # bytes that a step needs


def main() -> None:
    config, about = (
        command.build(TrainConfig, _CONFIG.value.to_dict()),
        command.describe(),
    )
    check_peer()
    if _BATCH_SIZE.value:
        data = dataclasses.replace(config.data, batch_size=_BATCH_SIZE.value)
        config = dataclasses.replace(config, data=data)
    if _PEER.value and config.optimizer.kind != "adamw":
        print(f"AdamW instead of {config.optimizer.kind}, as the peer has no other")
        optimizer = dataclasses.replace(config.optimizer, kind="adamw")
        config = dataclasses.replace(config, optimizer=optimizer)
    if _PEER.value and any(b.sampled_rounds for b in config.data.buckets.values()):
        print("whole chains instead of drawn rounds, as the peer has no others")
        whole = {
            name: dataclasses.replace(bucket, sampled_rounds=0)
            for name, bucket in config.data.buckets.items()
        }
        data = dataclasses.replace(config.data, buckets=whole)
        config = dataclasses.replace(config, data=data)
    check_settings(config)
    check_devices(config)
    check_buckets(config)
    dtype = config.model.dtype
    rates, versions = {"jax": roofline.matrix_rate(dtype)}, {}
    if _PEER.value:
        from experiments.benchmarks import torch_baseline

        torch_baseline.check(config)
        rates["torch"] = torch_baseline.matrix_rate(dtype)
        versions["torch"] = importlib.metadata.version("torch")
    told = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in rates.items())
    print(f"a large product in {dtype}, Gflop/s: {told}")
    about |= versions | {
        "device": jax.devices()[0].device_kind,
        "cores": cores(),
        "environment": {
            name: os.environ[name] for name in SETTINGS & os.environ.keys()
        },
        "model": config.name,
        "batch_size": config.data.batch_size,
        "dtype": dtype,
        "optimizer": config.optimizer.kind,
        "matrix_gigaflops": {k: round(rate / 1e9, 1) for k, rate in rates.items()},
    }
    for name, bucket in config.data.buckets.items():
        work = make_work(bucket, config)
        about_bucket = about | {"bucket": name} | describe_work(work, config)
        lines = measure(work, config, about_bucket, max(rates.values()))
        if _RECORDS.value:
            files.append_lines(_RECORDS.value, lines)


def check_peer() -> None:
    """Raises ValueError where PyTorch is asked for, but not there."""
    if _COMPILE.value and not _PEER.value:
        raise ValueError("--compile is about PyTorch; give --peer too")
    if _PEER.value and importlib.util.find_spec("torch") is None:
        raise ValueError(
            "--peer needs PyTorch, which is not installed here; pip install -e '.[oracle]'"
        )


def cores() -> int:
    """How many this process may use: `taskset -c 0 python ...` leaves it one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make_work(bucket: BucketConfig, config: TrainConfig) -> Work:
    """Draws batches of one bucket, timing the pipeline; the first one starts it."""
    alone = dataclasses.replace(bucket, start_share=0.0)
    data = dataclasses.replace(config.data, buckets={"alone": alone})
    config = dataclasses.replace(config, data=data)
    count = max(_STEPS.value, 2 * loader.PREFETCH)
    made = loader.steps(config, _WORKDIR.value, 0, count + 1)
    next(made)
    before = time.perf_counter()
    steps = list(made)
    speed = count / (time.perf_counter() - before)
    (shape, common), *_ = collections.Counter(map(shape_of, steps)).most_common(1)
    steps = [step for step in steps if shape_of(step) == shape]
    steps = [steps[i % len(steps)] for i in range(_STEPS.value)]
    return Work(steps, common / count, speed)


def shape_of(step: loader.Step) -> tuple:
    return tuple(part.shape for part in step.batch)


def describe_work(work: Work, config: TrainConfig) -> dict:
    """Shapes, and how much there is to do in a step."""
    first = work.steps[0]
    if config.model.kind == "decoder":
        batch_size, width = first.batch.tokens[:, :-1].shape
        loops, columns = 1, width
        trained = [step.batch.trained.sum() for step in work.steps]
    else:
        batch_size, width = first.batch.problem.shape
        loops, columns = first.num_loops, first.batch.rounds.shape[-1]
        share = loops / len(first.batch.rounds)  # 1, unless rounds are drawn
        trained = [step.batch.mask.sum() * share for step in work.steps]
    return {
        "task": first.task.name,
        "num_loops": loops,
        "width": width,
        "share_of_batches": round(work.share, 2),
        "positions": batch_size * width * loops,  # with padding
        "trained_tokens": round(float(np.mean(trained)), 1),
        "gigaflops": step_flops(config, batch_size, width, loops, columns) / 1e9,
        "batches_per_second": round(work.batches_per_second, 1),
    }


def measure(work: Work, config: TrainConfig, about: dict, peak: float) -> list[dict]:
    """Times all sides in turns, and tells of each."""
    sides = {"jax": jax_side(work, config)}
    if _PEER.value:
        sides["torch"] = torch_side(work, config)
    if _COMPILE.value:
        sides["torch.compile"] = torch_side(work, config, compiled=True)
    for side in sides.values():
        side.run()
    if _TRACE.value:
        with jax.profiler.trace(_TRACE.value):
            sides["jax"].run()
    spent = {name: [] for name in sides}
    for _ in range(_ROUNDS.value):
        for name, side in sides.items():
            before = clocks()
            side.run()
            spent[name].append((clocks() - before) / len(work.steps))
    lines = []
    for name, side in sides.items():
        seconds, cpu = np.array(spent[name]).T
        median = float(np.median(seconds))
        ours, our_cpu = np.array(spent["jax"]).T
        ratio = seconds / ours
        line = about | {
            "side": name,
            "compile_seconds": round(side.compile_seconds, 2),
            "ms_per_step": round(median * 1e3, 3),
            "ms_min": round(seconds.min() * 1e3, 3),
            "ms_max": round(seconds.max() * 1e3, 3),
            "cpu_ms_per_step": round(float(np.median(cpu)) * 1e3, 3),
            "times_jax": round(float(np.median(ratio)), 3),
            "times_jax_min": round(ratio.min(), 3),
            "times_jax_max": round(ratio.max(), 3),
            "times_jax_cpu": round(float(np.median(cpu / our_cpu)), 3),
            "examples_per_second": round(about["batch_size"] / median, 1),
            "tokens_per_second": round(about["positions"] / median, 1),
            "trained_tokens_per_second": round(about["trained_tokens"] / median, 1),
            "share_of_peak": round(about["gigaflops"] * 1e9 / median / peak, 4),
            # The same by CPU time: what one of the cores does while it is ours.
            "cpu_share_of_peak": round(
                about["gigaflops"] * 1e9 / np.median(cpu) / peak * about["cores"], 4
            )
            if jax.default_backend() == "cpu"
            else None,
            "data_share": round(1 / median / work.batches_per_second, 3),
            "memory_megabytes": side.memory and round(side.memory / 1e6, 1),
        }
        tell(line)
        lines.append(line)
    return lines


def clocks() -> np.ndarray:
    """Seconds of the clock on the wall, and of this process on all its cores: the
    latter hardly knows what else runs on the machine."""
    return np.array([time.perf_counter(), time.process_time()])


def tell(line: dict) -> None:
    print(
        f"{line['bucket']} (T={line['num_loops']}, n={line['width']}) "
        f"{line['side']:>13}: {line['ms_per_step']:.2f} ms a step "
        f"({line['ms_min']:.2f} to {line['ms_max']:.2f}), {line['times_jax']:.2f} of "
        f"ours ({line['times_jax_min']:.2f} to {line['times_jax_max']:.2f}; "
        f"{line['times_jax_cpu']:.2f} in CPU time), "
        f"{line['examples_per_second']:,.0f} examples/s, {line['tokens_per_second']:,.0f} "
        f"tokens/s, {line['share_of_peak']:.1%} of the peak; data is made in "
        f"{line['data_share']:.1%} of the time",
        flush=True,
    )


def jax_side(work: Work, config: TrainConfig) -> Side:
    mesh, first = make_mesh(config.mesh), work.steps[0]
    size = config.data.batch_size
    state = init_state(config, init_params(config))
    lies = param_shardings(state, mesh)
    state = jax.device_put(state, lies)
    shape = {"task": first.task, "num_loops": first.num_loops}
    before = time.perf_counter()
    lowered = make_train_step(config, lies).lower(
        state, shard_batch(first.batch, mesh, size), **shape
    )
    step = lowered.compile()
    seconds = time.perf_counter() - before

    def run():
        nonlocal state
        for now in work.steps:
            state, _ = step(state, shard_batch(now.batch, mesh, size))
        jax.block_until_ready(state)

    return Side(run, seconds, memory_bytes(step))


def memory_bytes(compiled: jax.stages.Compiled) -> int | None:
    """What a program needs at once: its arguments, results and what is between them."""
    found = compiled.memory_analysis()
    if found is None:
        return None
    parts = found.argument_size_in_bytes, found.output_size_in_bytes
    return sum(parts) - found.alias_size_in_bytes + found.temp_size_in_bytes


def torch_side(work: Work, config: TrainConfig, compiled: bool = False) -> Side:
    from experiments.benchmarks import torch_baseline

    trainer = torch_baseline.Trainer(config, init_params(config), compiled)
    batches = [trainer.prepare(step) for step in work.steps]
    before = time.perf_counter()
    trainer.step(*batches[0])
    trainer.wait()
    seconds = time.perf_counter() - before if compiled else 0.0

    def run():
        for batch in batches:
            trainer.step(*batch)
        trainer.wait()

    return Side(run, seconds, None)


if __name__ == "__main__":
    command.run(main)
