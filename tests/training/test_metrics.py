"""Metrics of a run: its speed, and the profile of some of its steps."""

import contextlib
import dataclasses
import json
import time
import types

import numpy as np
import pytest

from experiments.configs import tiny
from relay_jax import config_io
from relay_jax.base import DecoderBatch, LoopedBatch
from relay_jax.config import TrainConfig
from relay_jax.evaluation.flops import step_flops
from relay_jax.training import loop, metrics


def small(num_steps=4):
    values = tiny.get_config().to_dict()
    values |= {"num_steps": num_steps, "log_every_steps": 2}
    values["model"] |= {"num_layers": 1, "dim": 16, "mlp_dim": 32}
    values["data"]["batch_size"] = 8
    values["evaluation"]["lengths"] = {}
    return config_io.build(TrainConfig, values)


def test_the_work_of_a_step_is_that_of_its_batch():
    tokens = np.zeros((8, 11), np.int32)
    rounds = np.zeros((3, 8, 11), np.int32)
    batch = LoopedBatch(tokens, rounds, rounds > 0, tokens[:, 0], tokens[:, 0])
    config = small()
    work = metrics.step_workload(config, batch, 3)
    assert work[:2] == (8, 3 * 8 * 11)
    assert work.flops == step_flops(config, 8, 11, 3)
    work = metrics.step_workload(config, DecoderBatch(tokens, tokens > 0), 3)
    assert work[:2] == (8, 8 * 10)  # the last token is only a target
    assert work.flops == step_flops(config, 8, 10)


def test_speed_and_trace_are_recorded(tmp_path):
    loop.train(small(), tmp_path, range(2, 4))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]
    line = json.loads(lines[-1])
    examples, steps = line["examples_per_second"], line["steps_per_second"]
    assert examples == pytest.approx(8 * steps)
    assert line["tokens_per_second"] > examples and line["memory_gigabytes"] > 0.01
    assert line["teraflops_per_second"] > 0
    assert "flop_utilisation" not in line  # a CPU's peak is not known
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert b"train_step" in trace.read_bytes()


@pytest.mark.parametrize("steps", [range(2, 5), range(1, 3)])
def test_a_resumed_run_traces_the_remaining_steps(tmp_path, monkeypatch, steps):
    """It was stopped after step 2, within the steps to be traced or at their end."""
    monkeypatch.setattr(loop, "stop_requested", lambda: contextlib.nullcontext(stop))
    metrics = tmp_path / "metrics.jsonl"
    stop = metrics.exists
    with pytest.raises(loop.Stopped, match="stopped at step 2"):
        loop.train(small(), tmp_path, steps)
    (begun,) = (tmp_path / "profile").rglob("*.xplane.pb")
    first_modified = begun.stat().st_mtime_ns
    stop = lambda: False
    assert loop.train(small(), tmp_path, steps)["steps"] == 4
    traces = (tmp_path / "profile").rglob("*.xplane.pb")
    newest = max(trace.stat().st_mtime_ns for trace in traces)
    assert (newest > first_modified) == (steps[-1] > 2)


def test_evaluation_is_no_training_time(tmp_path, monkeypatch):
    evaluated = []  # for a week each time
    now = lambda: time.monotonic() + 600_000 * len(evaluated)
    for module in (loop, metrics):
        monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=now))
    monkeypatch.setattr(
        loop, "evaluate_run", lambda *_, **__: evaluated.append(1) or []
    )
    config = small(6)
    evaluation = dataclasses.replace(config.evaluation, every_steps=2)
    loop.train(dataclasses.replace(config, evaluation=evaluation), tmp_path)
    lines = list(map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines()))
    assert lines[2]["seconds"] - lines[1]["seconds"] > 600_000
    assert lines[2]["steps_per_second"] > 1e-3


@pytest.mark.parametrize("steps", [range(3), range(3, 6)])
def test_steps_outside_the_run_cannot_be_traced(tmp_path, steps):
    with pytest.raises(ValueError, match=r"the run has the steps 1 to 4"):
        loop.train(small(), tmp_path / "run", steps)
    assert not (tmp_path / "run").exists()
