"""Two real processes train as one does that has all their devices."""

import pathlib
import signal
import time

import numpy as np
import pytest

from experiments.configs import tiny
from relay_jax import config as configs
from relay_jax import config_io, files
from relay_jax.training import loop
from tests.processes import finish, start

CONFIG = """
import sys
from ml_collections import ConfigDict
from relay_jax import config as configs
from relay_jax import config_io
from tests.training.test_train_processes import settings
def get_config(kind):
    return ConfigDict(config_io.complete(configs.TrainConfig, settings(kind)))
"""


def settings(kind):
    """A run of a few steps: of a decoder on text, or of a looped model on a task."""
    values = {"num_steps": 24, "log_every_steps": 1, "seed": 3}
    values["optimizer"] = {"learning_rate": 1e-2}
    if kind == "looped":
        task = tiny.get_config().to_dict()
        task["model"] |= {"num_layers": 1, "dim": 16, "mlp_dim": 16, "dropout": 0.1}
        task["data"]["batch_size"] = 8
        task["evaluation"]["final"] = 8
        return task | values | {"num_steps": 4}
    model = {"kind": "decoder", "num_layers": 1, "dim": 16, "mlp_dim": 16}
    model |= {"text_vocab_size": 20, "dropout": 0.1, "dtype": "bfloat16"}
    text = {"task": "text", "lengths": (8, 8), "kind": "text", "path": "text.npy"}
    held_out = {"text": "text.npy", "context": 8, "during": 4, "final": 8}
    return values | {
        "model": model,
        "data": {"batch_size": 8, "buckets": {"text": text}},
        "evaluation": held_out | {"batch_size": 4, "every_steps": 8},
    }


def train(kind, folder, sizes, num_workers=0, **how):
    """Starts `experiments.train` in several processes."""
    (folder.parent / "config.py").write_text(CONFIG)
    axes = zip(("data", "fsdp", "tensor"), sizes)
    return start(
        "experiments.train",
        f"--config={folder.parent}/config.py:{kind}",
        f"--workdir={prepare(folder)}",
        *(f"--config.mesh.{axis}={size}" for axis, size in axes),
        f"--config.data.num_workers={num_workers}",
        **how,
    )


def prepare(folder):
    folder.mkdir(exist_ok=True)
    text = np.random.default_rng(0).integers(2, 20, 500).astype(np.int32)
    np.save(folder / "text.npy", text)
    return folder


def alone(kind, folder, sizes):
    """The same here, with as many devices."""
    values = settings(kind) | {"mesh": dict(zip(("data", "fsdp", "tensor"), sizes))}
    loop.train(config_io.build(configs.TrainConfig, values), prepare(folder))
    return read_lines_of(folder)


def read_lines_of(folder: pathlib.Path):
    """All results of a run that do not depend on time."""
    metrics, measured = (
        list(files.read_lines(folder / f"{name}.jsonl"))
        for name in ("metrics", "records")
    )
    losses = [(line["step"], line["loss"]) for line in metrics]
    measured = [line | {"run": ""} for line in measured]
    return losses, measured, files.read_json(folder / "summary.json")["params_sha256"]


def wait_for_lines(folder, started, count):
    """Waits for the metrics of `count` steps."""
    metrics = folder / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < count:
        assert not any(process.poll() for process in started), started[0].communicate()
        time.sleep(0.02)


def test_a_signal_to_one_process_stops_both_and_both_resume(tmp_path):
    """Parameters, optimizer and batch are sharded over the devices of both; sums of two
    numbers do not depend on their order, so all results are bit-identical. The data
    workers leave nothing to print after the last line."""
    run, sizes = tmp_path / "two", (1, 2, 2)
    two = train("text", run, sizes, num_workers=1)
    wait_for_lines(run, two, 2)
    two[1].send_signal(signal.SIGTERM)
    outputs = finish(two, codes=143)
    steps = {errors.splitlines()[-1].split(";")[0] for _, errors in outputs}
    assert len(steps) == 1 and steps.pop().startswith("stopped at step")
    assert not (run / "summary.json").exists()
    outputs = finish(train("text", run, sizes))
    assert (
        "params_sha256" in outputs[0][0] and not outputs[1][0]
    )  # the first one prints
    assert read_lines_of(run) == alone("text", tmp_path / "one", sizes)
    assert len(list(files.read_lines(run / "run.jsonl"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 2, 1)], ids=str)
def test_two_processes_of_a_device_train_as_one(sizes, tmp_path):
    """Each makes half of the batch's problems."""
    finish(train("looped", tmp_path / "two", sizes, devices=1))
    sizes = tuple(size or 2 for size in sizes)
    assert read_lines_of(tmp_path / "two") == alone("looped", tmp_path / "one", sizes)


@pytest.mark.slow
def test_sums_over_more_devices_differ_by_rounding_alone(tmp_path):
    finish(train("looped", tmp_path / "two", (4, 1, 1)))
    two, one = (
        read_lines_of(tmp_path / "two"),
        alone("looped", tmp_path / "one", (4, 1, 1)),
    )
    np.testing.assert_allclose(two[0], one[0], rtol=1e-5)


@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_both_resume(tmp_path):
    """It neither trains on alone nor waits for the dead one at its end."""
    run, sizes = tmp_path / "two", (0, 1, 1)
    two = train("text", run, sizes, devices=1)
    wait_for_lines(run, two, 2)
    two[1].kill()
    assert two[0].wait(60) == 1
    assert "Traceback" in two[0].communicate()[1]
    two[1].communicate()
    finish(train("text", run, sizes, devices=1))
    assert read_lines_of(run) == alone("text", tmp_path / "one", (2, 1, 1))
