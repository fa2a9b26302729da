r"""Times a training step, optionally beside the same step in PyTorch.

    python -m experiments.benchmarks.train --baseline --records=FILE.jsonl \
        --config=experiments/configs/quickstart.py:arithmetic/looped_aligned
    taskset -c 0 python -m experiments.benchmarks.train --batch_size=16 \
        --config=experiments/configs/tiny.py

Times the project's own step on batches of its own pipeline, for each bucket of the
config, and the pipeline alone. With --baseline the model of
experiments/benchmarks/torch_baseline.py is timed in turns with ours, so that both are
disturbed alike. It has no Muon and no sampled rounds; a config with these is then timed
with AdamW and whole chains on both sides. If other work is running, give both one core
(`taskset -c 0 python ...`) and compare CPU times: PyTorch's threads wait for one another.
"""

import dataclasses
import importlib.metadata
import importlib.util
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from experiments import command
from experiments.benchmarks.workload import Workload, describe_workload, make_workload
from relay_jax import files
from relay_jax.config import TrainConfig
from relay_jax.data.buckets import check_buckets
from relay_jax.models.sharding import make_mesh, param_shardings, shard_batch
from relay_jax.rest import roofline
from relay_jax.training.step import init_params, init_state, make_train_step
from relay_jax.training.validate import check_devices, check_settings

_CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment's file.")
_WORKDIR = flags.DEFINE_string("workdir", ".", "Beside it are the chains of a bucket.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 0, "0: the config's.", 0)
_STEPS = flags.DEFINE_integer("steps", 10, "Steps of one measurement.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Measurements; the median counts.", 1)
_BASELINE = flags.DEFINE_bool("baseline", False, "Time PyTorch too.")
_COMPILE = flags.DEFINE_bool("compile", False, "And torch.compile (takes minutes).")
_TRACE = flags.DEFINE_string("trace", "", "A directory for a profile of some steps.")
_RECORDS = flags.DEFINE_string("records", "", "A file to append records to.")
flags.mark_flag_as_required("config")
ENVIRONMENT = {"GLIBC_TUNABLES", "OMP_NUM_THREADS", "XLA_FLAGS"}  # that affects times


class Side(NamedTuple):
    """One of the implementations that are timed."""

    run: Callable[[], None]  # all steps of the workload, until they are finished
    compile_seconds: float
    memory: int | None  # bytes that a step needs


def main() -> None:
    metadata = command.describe()
    config = command.build(TrainConfig, _CONFIG.value.to_dict())
    check_baseline()
    if _BATCH_SIZE.value:
        data = dataclasses.replace(config.data, batch_size=_BATCH_SIZE.value)
        config = dataclasses.replace(config, data=data)
    if _BASELINE.value:
        config = without_extras(config)
    check_settings(config)
    check_devices(config)
    check_buckets(config)
    dtype = config.model.dtype
    rates = {"jax": roofline.matrix_rate(dtype)}
    if _BASELINE.value:
        from experiments.benchmarks import torch_baseline

        torch_baseline.check(config)
        rates["torch"] = torch_baseline.matrix_rate(dtype)
        metadata["torch"] = importlib.metadata.version("torch")
    shown = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in rates.items())
    print(f"a large matrix product in {dtype}, GFLOP/s: {shown}")
    metadata |= {
        "device": jax.devices()[0].device_kind,
        "cores": num_cores(),
        "environment": {n: os.environ[n] for n in ENVIRONMENT & os.environ.keys()},
        "model": config.name,
        "batch_size": config.data.batch_size,
        "dtype": dtype,
        "optimizer": config.optimizer.kind,
        "matrix_gigaflops": {k: round(rate / 1e9, 1) for k, rate in rates.items()},
    }
    for name, bucket in config.data.buckets.items():
        work = make_workload(bucket, config, _WORKDIR.value, _STEPS.value)
        common = metadata | {"bucket": name} | describe_workload(work, config)
        lines = measure(work, config, common, max(rates.values()))
        if _RECORDS.value:
            files.append_lines(_RECORDS.value, lines)


def check_baseline() -> None:
    """Raises ValueError if PyTorch is requested but not installed."""
    if _COMPILE.value and not _BASELINE.value:
        raise ValueError("--compile is for PyTorch; give --baseline too")
    if _BASELINE.value and importlib.util.find_spec("torch") is None:
        raise ValueError(
            "--baseline needs PyTorch, which is not installed here; "
            "pip install -e '.[oracle]'"
        )


def without_extras(config: TrainConfig) -> TrainConfig:
    """The config with AdamW and whole chains, which is what the baseline implements."""
    if config.optimizer.kind != "adamw":
        print(f"AdamW instead of {config.optimizer.kind}, which the baseline lacks")
        optimizer = dataclasses.replace(config.optimizer, kind="adamw")
        config = dataclasses.replace(config, optimizer=optimizer)
    if any(bucket.sampled_rounds for bucket in config.data.buckets.values()):
        print("whole chains instead of sampled rounds, which the baseline lacks")
        buckets = {
            name: dataclasses.replace(bucket, sampled_rounds=0)
            for name, bucket in config.data.buckets.items()
        }
        data = dataclasses.replace(config.data, buckets=buckets)
        config = dataclasses.replace(config, data=data)
    return config


def num_cores() -> int:
    """The cores that this process may use: one with `taskset -c 0 python ...`."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def measure(
    work: Workload, config: TrainConfig, common: dict[str, Any], peak: float
) -> list[dict[str, Any]]:
    """Times all sides in turns, prints and returns a record of each.

    Args:
      common: fields of every record.
      peak: FLOP/s of a large matrix product.
    """
    sides = {"jax": jax_side(work, config)}
    if _BASELINE.value:
        sides["torch"] = torch_side(work, config)
    if _COMPILE.value:
        sides["torch.compile"] = torch_side(work, config, compiled=True)
    for side in sides.values():
        side.run()
    if _TRACE.value:
        with jax.profiler.trace(_TRACE.value):
            sides["jax"].run()
    times: dict[str, list] = {name: [] for name in sides}
    for _ in range(_ROUNDS.value):
        for name, side in sides.items():
            before = clocks()
            side.run()
            times[name].append((clocks() - before) / len(work.steps))
    lines = []
    for name, side in sides.items():
        line = common | {
            "side": name,
            "compile_seconds": round(side.compile_seconds, 2),
            **time_fields(np.array(times[name]), np.array(times["jax"])),
            **rate_fields(np.median(np.array(times[name]), axis=0), common, peak),
            "memory_megabytes": side.memory and round(side.memory / 1e6, 1),
        }
        print(describe_line(line), flush=True)
        lines.append(line)
    return lines


def clocks() -> np.ndarray:
    """Wall-clock time and this process's CPU time on all cores, in seconds. The latter
    hardly depends on what else the machine is doing."""
    return np.array([time.perf_counter(), time.process_time()])


def time_fields(times: np.ndarray, jax_times: np.ndarray) -> dict[str, float]:
    """Times of a step and their ratio to ours, round by round: [rounds, 2 clocks]."""
    seconds, cpu_seconds = times.T
    ratio, cpu_ratio = (times / jax_times).T
    return {
        "ms_per_step": round(float(np.median(seconds)) * 1e3, 3),
        "ms_min": round(float(seconds.min()) * 1e3, 3),
        "ms_max": round(float(seconds.max()) * 1e3, 3),
        "cpu_ms_per_step": round(float(np.median(cpu_seconds)) * 1e3, 3),
        "times_jax": round(float(np.median(ratio)), 3),
        "times_jax_min": round(float(ratio.min()), 3),
        "times_jax_max": round(float(ratio.max()), 3),
        "times_jax_cpu": round(float(np.median(cpu_ratio)), 3),
    }


def rate_fields(
    median: np.ndarray, common: dict[str, Any], peak: float
) -> dict[str, float | None]:
    """Work per second at the median times of a step: wall clock, CPU."""
    seconds, cpu_seconds = median.tolist()
    flops = common["gigaflops"] * 1e9
    # By CPU time: what one core achieves while it works for us.
    is_cpu = jax.default_backend() == "cpu"
    cpu_share = flops / cpu_seconds / peak * common["cores"] if is_cpu else None
    return {
        "examples_per_second": round(common["batch_size"] / seconds, 1),
        "tokens_per_second": round(common["positions"] / seconds, 1),
        "trained_tokens_per_second": round(common["trained_tokens"] / seconds, 1),
        "share_of_peak": significant(flops / seconds / peak),
        "cpu_share_of_peak": cpu_share and significant(cpu_share),
        "data_share": round(1 / seconds / common["batches_per_second"], 3),
    }


def significant(value: float) -> float:
    """Four significant digits: the share of a small model on a busy machine is tiny, but
    not 0."""
    return float(f"{value:.4g}")


def describe_line(line: dict[str, Any]) -> str:
    """A record as a line of text."""
    return (
        f"{line['bucket']} (T={line['num_loops']}, n={line['width']}) "
        f"{line['side']:>13}: {line['ms_per_step']:.2f} ms per step "
        f"({line['ms_min']:.2f} to {line['ms_max']:.2f}), {line['times_jax']:.2f} of "
        f"ours ({line['times_jax_min']:.2f} to {line['times_jax_max']:.2f}; "
        f"{line['times_jax_cpu']:.2f} in CPU time), "
        f"{line['examples_per_second']:,.0f} examples/s, "
        f"{line['tokens_per_second']:,.0f} tokens/s, {line['share_of_peak']:.1%} of the "
        f"peak; making the data takes {line['data_share']:.1%} of that time"
    )


def jax_side(work: Workload, config: TrainConfig) -> Side:
    mesh, first = make_mesh(config.mesh), work.steps[0]
    size = config.data.batch_size
    state = init_state(config, init_params(config))
    shardings = param_shardings(state, mesh)
    state = jax.device_put(state, shardings)
    static = {"task": first.task, "num_loops": first.num_loops}
    before = time.perf_counter()
    lowered = make_train_step(config, shardings).lower(
        state, shard_batch(first.batch, mesh, size), **static
    )
    train_step = lowered.compile()
    seconds = time.perf_counter() - before

    def run():
        nonlocal state
        for step in work.steps:
            state, _ = train_step(state, shard_batch(step.batch, mesh, size))
        jax.block_until_ready(state)

    return Side(run, seconds, memory_bytes(train_step))


def memory_bytes(compiled: jax.stages.Compiled) -> int | None:
    """The memory of a program: arguments, results, and temporaries, in bytes."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    sizes = analysis.argument_size_in_bytes, analysis.output_size_in_bytes
    return sum(sizes) - analysis.alias_size_in_bytes + analysis.temp_size_in_bytes


def torch_side(work: Workload, config: TrainConfig, compiled: bool = False) -> Side:
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
