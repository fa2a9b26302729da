"""Two real processes train as one does that has all their devices."""

import signal
import time

import pytest

from relay_jax import records
from tests.processes import finish, start

TRAIN = [
    "experiments.train",
    "--config=experiments/configs/tiny.py",
    *("--config.model.dim=16", "--config.model.num_layers=1"),
    *("--config.model.mlp_dim=16", "--config.model.dropout=0.1"),
    *("--config.data.batch_size=8", "--config.evaluation.final=8"),
    "--config.log_every_steps=1",
]


def told_by(path):
    """All that a run leaves and that no clock has a part in."""
    kept = [
        list(records.read_lines(path / f"{n}.jsonl")) for n in ("metrics", "records")
    ]
    losses = [(line["step"], line["loss"]) for line in kept[0]]
    measured = [line | {"run": ""} for line in kept[1]]
    return losses, measured, records.read_json(path / "summary.json")["params_sha256"]


@pytest.mark.parametrize("mesh", [(0, 1, 1), (1, 2, 2)], ids=str)
def test_two_processes_train_as_one(tmp_path, mesh):
    axes = zip(("data", "fsdp", "tensor"), mesh)
    mesh = [f"--config.mesh.{axis}={size}" for axis, size in axes]
    work = [*TRAIN, *mesh, "--config.num_steps=4"]
    two = start(*work, f"--workdir={tmp_path}/two")
    told = finish(two)
    finish(start(*work, f"--workdir={tmp_path}/one", processes=1, devices=4))
    assert "params_sha256" in told[0][0]
    assert "params_sha256" not in told[1][0]  # the first one alone prints
    assert told_by(tmp_path / "two") == told_by(tmp_path / "one")
    assert len(list(records.read_lines(tmp_path / "two" / "run.jsonl"))) == 1


def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path):
    work = [*TRAIN, "--config.mesh.fsdp=0", "--config.num_steps=40"]
    two, metrics = (
        start(*work, f"--workdir={tmp_path}/two"),
        tmp_path / "two/metrics.jsonl",
    )
    while not metrics.exists() or metrics.read_text().count("\n") < 2:
        assert two[0].poll() is None, two[0].communicate()
        time.sleep(0.05)
    two[1].send_signal(signal.SIGTERM)
    told = finish(two, codes=143)
    steps = {errors.splitlines()[-1].split(";")[0] for _, errors in told}
    assert len(steps) == 1 and steps.pop().startswith("stopped at step")
    finish(start(*work, f"--workdir={tmp_path}/two"))
    finish(start(*work, f"--workdir={tmp_path}/one", processes=1, devices=4))
    assert told_by(tmp_path / "two") == told_by(tmp_path / "one")
