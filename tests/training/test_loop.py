"""The training loop: resuming, stopping, errors, the files that it writes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import pytest

from relay_jax import config as configs
from relay_jax import config_io, files
from relay_jax.training import checkpoint, loop
from relay_jax.training.optimizer import trained_params
from relay_jax.training.step import init_params, init_state
from tests.training.runs import small, stop_after


def test_a_run_ends_with_the_average_of_its_parameters(tmp_path):
    config = small(num_steps=3, optimizer={"average_share": 0.9})
    loop.train(config, tmp_path)
    like = jax.eval_shape(lambda: init_state(config, init_params(config)))
    with checkpoint.make_manager(tmp_path, 1) as manager:
        state, _ = checkpoint.restore(manager, like)
    average = trained_params(None, state.opt_state)
    assert checkpoint.hash_params(state.params) == checkpoint.hash_params(average)
    last = loop.train(small(num_steps=3), tmp_path / "last")["params_sha256"]
    assert checkpoint.hash_params(average) != last


def test_an_unfinished_run_is_read_as_its_average(tmp_path, monkeypatch):
    config = small(num_steps=3, optimizer={"average_share": 0.9})
    stop_after(monkeypatch, 2)
    with pytest.raises(loop.Stopped, match="stopped at step 2"):
        loop.train(config, tmp_path)
    like = jax.eval_shape(lambda: init_state(config, init_params(config)))
    with checkpoint.make_manager(tmp_path, 1) as manager:
        state, _ = checkpoint.restore(manager, like)
    average = checkpoint.hash_params(trained_params(None, state.opt_state))
    assert average != checkpoint.hash_params(state.params)
    assert checkpoint.hash_params(checkpoint.load_params(tmp_path)[1]) == average


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_process_resumes(tmp_path, number):
    """The same in real processes, killed at a random moment. A data worker of the
    killed process ends with it: else it would hold the pipe open."""
    command = [
        *(sys.executable, "-m", "experiments.train"),
        "--config=experiments/configs/tiny.py",
        *("--config.num_steps=300", "--config.checkpoint_every_seconds=1.0"),
    ]
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}

    def start(name, *more, **pipes):
        each = [*command, f"--workdir={tmp_path / name}", *more]
        return subprocess.Popen(each, env=environment, **pipes)

    assert start("whole").wait(300) == 0
    metrics = tmp_path / "cut" / "metrics.jsonl"
    cut = start("cut", "--config.data.num_workers=1", stdout=subprocess.PIPE)
    while not metrics.exists() or metrics.read_text().count("\n") < 2:
        assert cut.poll() is None
        time.sleep(0.05)
    cut.send_signal(number)
    cut.communicate(timeout=60)
    assert cut.returncode == (143 if number == signal.SIGTERM else -number)
    assert start("cut").wait(300) == 0
    summaries = [
        files.read_json(tmp_path / n / "summary.json") for n in ("whole", "cut")
    ]
    assert summaries[0]["params_sha256"] == summaries[1]["params_sha256"]


def test_stop_during_the_last_step_leaves_the_evaluation(tmp_path, monkeypatch):
    whole = loop.train(small(num_steps=2), tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(loop.Stopped, match="stopped at step 2; run the same comm"):
            loop.train(small(num_steps=2), tmp_path / "cut")
    assert not (tmp_path / "cut" / "summary.json").exists()
    monkeypatch.setattr(loop, "make_train_step", lambda *args: None)  # none is left
    again = loop.train(small(num_steps=2), tmp_path / "cut")
    assert again["params_sha256"] == whole["params_sha256"]
    assert again["final"] == [x | {"run": "cut"} for x in whole["final"]]


def test_a_run_without_its_summary_writes_its_final_records_once(tmp_path):
    loop.train(small(), tmp_path)
    file = tmp_path / "records.jsonl"
    before = file.read_text()
    (tmp_path / "summary.json").unlink()  # as if killed just before it
    loop.train(small(), tmp_path)
    assert file.read_text() == before
    assert {line["step"] for line in files.read_lines(file)} == {4, 6}


def test_finished_run_is_not_trained_again(tmp_path):
    first = loop.train(small(num_steps=5), tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == first
    assert {"steps", "seconds", "params_sha256", "final"} <= set(summary)
    before = (tmp_path / "metrics.jsonl").read_text()
    assert loop.train(small(num_steps=5), tmp_path) == first
    assert (tmp_path / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize("lost", ["newest", "all"])
def test_a_finished_run_that_lost_its_checkpoint_saves_it_again(tmp_path, lost):
    often = small(num_steps=3, checkpoint_every_seconds=0.0)
    first = loop.train(often, tmp_path)
    folder = tmp_path / "checkpoints"
    shutil.rmtree(folder / "3" if lost == "newest" else folder)
    newest = "its newest is 2" if lost == "newest" else "it holds no checkpoint"
    with pytest.raises(
        ValueError, match=rf"of step 3 is gone \({newest}\); run its training command"
    ):
        checkpoint.load_params(tmp_path)
    again = loop.train(often, tmp_path)
    params = checkpoint.load_params(tmp_path)[1]
    assert checkpoint.hash_params(params) == first["params_sha256"]
    assert again["params_sha256"] == first["params_sha256"]


def test_the_run_directory_has_all_that_a_later_stage_needs(tmp_path):
    summary = loop.train(small(num_steps=5), tmp_path / "run")
    config, params = checkpoint.load_params(tmp_path / "run")
    assert config == small(num_steps=5)
    assert checkpoint.hash_params(params) == summary["params_sha256"]
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        *("config.json", "checkpoints", "metrics.jsonl", "records.jsonl"),
        *("tensorboard", "summary.json"),
    }
    lines = list(files.read_lines(tmp_path / "run" / "records.jsonl"))
    assert set(lines[0]) == {*files.FIELDS, "step"}
    hits = [line for line in lines if line["metric"] == "hit_accuracy"]
    assert {(line["length"], line["step"]) for line in hits} == {
        (5, 5)
    }  # the last ones
    plain = [line for line in summary["final"] if set(line) == set(files.FIELDS)]
    assert plain == summary["final"] and {line["length"] for line in plain} == {
        *range(1, 6)
    }
    tuned = small(num_steps=3, init_from="run", seed=1)
    assert loop.train(tuned, tmp_path / "tuned")["steps"] == 3


def test_loss_that_is_not_finite_stops_the_run(tmp_path):
    wild = small(optimizer={"learning_rate": 1e30, "clip_norm": 1e30})
    wild = config_io.build(configs.TrainConfig, config_io.to_dict(wild))
    with pytest.raises(
        FloatingPointError, match=r"loss is (nan|inf) at step [2-4]; the"
    ):
        loop.train(wild, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, "num_steps must be 1 or more"),
        ({"init_from": "nowhere"}, "is not a run directory"),
    ],
)
def test_bad_configs_are_refused_before_training(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        loop.train(small(**changes), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
