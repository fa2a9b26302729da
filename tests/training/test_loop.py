"""The training loop: resuming, stopping, errors, what it leaves behind."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs import tiny
from relay_jax import config as configs
from relay_jax import config_io, files
from relay_jax.data import loader
from relay_jax.data.buckets import open_buckets
from relay_jax.training import checkpoint, loop, run_dir
from relay_jax.training.optimizer import make_schedule, trained_params
from relay_jax.training.step import init_params, init_state, make_train_step

ROOT = pathlib.Path(__file__).parents[2]


def small(**changes):
    values = tiny.get_config().to_dict()
    values["model"] |= {"num_layers": 1, "dim": 16, "mlp_dim": 16}
    values["data"]["batch_size"] = 4
    values["evaluation"] |= {"every_steps": 4, "during": 4, "final": 8}
    values |= {"num_steps": 6, "log_every_steps": 1, "checkpoint_every_seconds": 1e9}
    return config_io.build(configs.TrainConfig, values | changes)


OFTEN = {"checkpoint_every_seconds": 0.0, "optimizer": {"average_share": 0.5}}
KILLED = """
import os, signal, sys
from relay_jax import records
from relay_jax.training import loop
from tests.training.test_loop import OFTEN, small
append = records.append_lines
def die(path, lines):
    append(path, lines)
    if lines[-1]["step"] == 5:
        os.kill(os.getpid(), signal.SIGKILL)
records.append_lines = die
loop.train(small(**OFTEN), sys.argv[1])
"""


def test_a_killed_process_ends_with_the_same_parameters(tmp_path):
    """A real SIGKILL, while checkpoints of the steps before are on their way to disk."""
    flags = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "cut")],
        env=os.environ | flags,  # as in this process, see conftest.py
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "cut" / "summary.json").exists()
    again = loop.train(small(**OFTEN), tmp_path / "cut")
    whole = loop.train(small(**OFTEN), tmp_path / "whole")
    assert again["params_sha256"] == whole["params_sha256"]
    lines = [
        list(files.read_lines(tmp_path / d / "metrics.jsonl")) for d in ("whole", "cut")
    ]
    assert [x["step"] for x in lines[0]] == [x["step"] for x in lines[1]]
    assert [x["loss"] for x in lines[0]] == [x["loss"] for x in lines[1]]


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


def test_a_run_under_way_is_taken_for_its_average(tmp_path, monkeypatch):
    config = small(num_steps=3, optimizer={"average_share": 0.9})
    told = tmp_path / "metrics.jsonl"
    stops = lambda: told.exists() and len(told.read_text().splitlines()) == 2
    monkeypatch.setattr(loop, "stop_requested", lambda: contextlib.nullcontext(stops))
    with pytest.raises(loop.Stopped, match="stopped at step 2"):
        loop.train(config, tmp_path)
    like = jax.eval_shape(lambda: init_state(config, init_params(config)))
    with checkpoint.make_manager(tmp_path, 1) as manager:
        state, _ = checkpoint.restore(manager, like)
    average = checkpoint.hash_params(trained_params(None, state.opt_state))
    assert average != checkpoint.hash_params(state.params)
    assert checkpoint.hash_params(checkpoint.load_params(tmp_path)[1]) == average


@pytest.mark.parametrize("kind", ["hidden", "soft", "decoder"])
def test_parameters_of_bfloat16_train(kind):
    """The scan over loops carries one type, whatever that of the parameters."""
    model = {"num_layers": 1, "dim": 16, "num_heads": 2, "mlp_dim": 16}
    model |= {
        "hidden": {"input_injection": "hidden"},
        "soft": {"input_injection": "feedback", "feedback": "soft"},
        "decoder": {"kind": "decoder"},
    }[kind]
    config = small(model=model | {"param_dtype": "bfloat16", "num_numbers": 8})
    buckets = open_buckets(config)
    state = init_state(config, init_params(config))
    types = [x.dtype for x in jax.tree.leaves(state.params)]
    assert jnp.dtype("bfloat16") in types
    step, losses = make_train_step(config), []
    for now in (loader.step_at(i, buckets, config) for i in range(2)):
        work = {"task": now.task, "num_loops": now.num_loops}
        state, metrics = step(state, now.batch, **work)
        losses.append(float(metrics["loss"]))
    assert np.isfinite(losses).all()
    assert [x.dtype for x in jax.tree.leaves(state.params)] == types


@pytest.mark.parametrize("kind", ["hidden", "feedback", "decoder"])
def test_bfloat16_computes_about_the_same_and_keeps_float32_parameters(kind):
    model = {"num_layers": 1, "dim": 16, "num_heads": 2, "mlp_dim": 16, "dropout": 0.0}
    model |= {"kind": "decoder"} if kind == "decoder" else {"input_injection": kind}
    losses = {}
    for dtype in ("float32", "bfloat16"):
        config = small(model=model | {"dtype": dtype, "num_numbers": 8})
        buckets = open_buckets(config)
        step, state = make_train_step(config), init_state(config, init_params(config))
        losses[dtype] = []
        for now in (loader.step_at(i, buckets, config) for i in range(3)):
            work = {"task": now.task, "num_loops": now.num_loops}
            state, metrics = step(state, now.batch, **work)
            losses[dtype].append(float(metrics["loss"]))
        assert {x.dtype for x in jax.tree.leaves(state.params)} == {
            jnp.dtype("float32")
        }
    assert losses["bfloat16"] != losses["float32"]
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_process_resumes(tmp_path, number):
    """The same in real processes, killed at a moment nobody chose. A worker of the one
    that is killed ends with it: else it would hold the pipe open."""
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
    append = files.append_lines

    def ask(path, lines):
        append(path, lines)
        if lines[-1]["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(files, "append_lines", ask)
    with pytest.raises(loop.Stopped, match="stopped at step 2; run the same command"):
        loop.train(small(num_steps=2), tmp_path / "cut")
    monkeypatch.undo()
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
def test_a_finished_run_that_lost_its_checkpoint_makes_it_again(tmp_path, lost):
    often = small(num_steps=3, checkpoint_every_seconds=0.0)
    first = loop.train(often, tmp_path)
    folder = tmp_path / "checkpoints"
    shutil.rmtree(folder / "3" if lost == "newest" else folder)
    held = "its newest is 2" if lost == "newest" else "it holds no checkpoint"
    with pytest.raises(
        ValueError, match=rf"of step 3 is gone \({held}\); run its training command"
    ):
        checkpoint.load_params(tmp_path)
    again = loop.train(often, tmp_path)
    params = checkpoint.load_params(tmp_path)[1]
    assert checkpoint.hash_params(params) == first["params_sha256"]
    assert again["params_sha256"] == first["params_sha256"]


def test_run_directory_holds_all_that_a_later_stage_needs(tmp_path):
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


def test_a_field_that_a_run_does_not_name_has_its_default(tmp_path):
    run_dir.open_run(tmp_path, small())
    file = tmp_path / "config.json"
    held = files.read_json(file)
    del held["optimizer"]["kind"]  # as in a directory of a version without it
    files.write_json(file, held)
    run_dir.open_run(tmp_path, small())
    with pytest.raises(ValueError, match="optimizer.kind is 'adamw' there and 'muon'"):
        run_dir.open_run(
            tmp_path, small(optimizer=held["optimizer"] | {"kind": "muon"})
        )
    files.write_json(file, held | {"gone": 1})
    with pytest.raises(ValueError, match="gone is 1 there and None here"):
        run_dir.open_run(tmp_path, small())


def test_how_a_run_is_computed_may_change_and_nothing_else(tmp_path):
    config = small()
    run_dir.open_run(tmp_path, config)
    data = dataclasses.replace(config.data, num_workers=2, accumulate=2)
    run_dir.open_run(tmp_path, dataclasses.replace(config, data=data))
    data = dataclasses.replace(config.data, batch_size=8)
    with pytest.raises(ValueError, match="data.batch_size is 4 there and 8 here"):
        run_dir.open_run(tmp_path, dataclasses.replace(config, data=data))


def test_other_config_is_refused(tmp_path):
    run_dir.open_run(tmp_path, small(num_steps=2))
    with pytest.raises(
        ValueError, match=r"holds a run of another config: num_steps is 2"
    ):
        loop.train(small(num_steps=3), tmp_path)


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
@pytest.mark.parametrize("content", [b"[]", b"null", b'{"cut', b"\xff"])
def test_a_damaged_file_of_a_run_is_named(tmp_path, name, content):
    run_dir.open_run(tmp_path, small())
    (tmp_path / name).write_bytes(content)
    named = pytest.raises(
        ValueError, match=f"{name} is damaged: .* create its directory"
    )
    with named:
        checkpoint.load_params(tmp_path)
    with named:
        loop.train(small(), tmp_path)


def test_missing_and_damaged_checkpoints_are_named(tmp_path):
    with pytest.raises(ValueError, match="is not a run directory: it has no config"):
        checkpoint.load_params(tmp_path / "nothing")
    run_dir.open_run(tmp_path / "fresh", small())
    with pytest.raises(ValueError, match="holds no checkpoint yet; train it first"):
        checkpoint.load_params(tmp_path / "fresh")
    loop.train(small(num_steps=2), tmp_path / "run")
    for file in (tmp_path / "run/checkpoints/2/state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"damaged")
    with pytest.raises(
        ValueError, match=r"checkpoints/2 cannot be read .* remove that"
    ):
        checkpoint.load_params(tmp_path / "run")


def test_a_flipped_bit_is_found_or_changes_nothing(tmp_path):
    config = small(num_steps=1, evaluation={"final": 1})
    state = init_state(config, init_params(config))
    run_dir.open_run(tmp_path, config)
    with checkpoint.make_manager(tmp_path, 1) as manager:
        checkpoint.save(manager, state, seconds=1.5)
    true = checkpoint.hash_params(state._asdict()), 1.5
    found = 0
    for file in (tmp_path / "checkpoints/0/state").rglob("d/*"):
        content = file.read_bytes()
        place = len(content) // 2
        flipped = bytes([content[place] ^ 4])
        file.write_bytes(content[:place] + flipped + content[place + 1 :])
        try:
            _, params = checkpoint.load_params(tmp_path)
            true_params = checkpoint.hash_params(state.params)
            assert checkpoint.hash_params(params) == true_params
            with checkpoint.make_manager(tmp_path, 1) as manager:
                held, seconds = checkpoint.restore(manager, state)
            assert (checkpoint.hash_params(held._asdict()), seconds) == true
        except ValueError as error:
            found += 1
            assert "checkpoints/0 cannot be read" in str(error)
            assert "remove that folder" in str(error)
        file.write_bytes(content)
    assert found


def test_a_checkpoint_of_other_values_is_refused_and_an_old_one_is_not(
    tmp_path, monkeypatch
):
    config = small(num_steps=1)
    state = init_state(config, init_params(config))
    run_dir.open_run(tmp_path, config)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "hash_params", lambda tree: "0")
        with checkpoint.make_manager(tmp_path, 1) as manager:
            checkpoint.save(manager, state, seconds=1.5)
    message = r"checkpoints/0 cannot be read \(the parameters have other values than"
    with pytest.raises(ValueError, match=message):
        checkpoint.load_params(tmp_path)
    manager = checkpoint.make_manager(tmp_path, 1)
    with manager, pytest.raises(ValueError, match=message):
        checkpoint.restore(manager, state)
    file = tmp_path / "checkpoints/0/progress/metadata"
    files.write_json(file, {"seconds": 1.5})  # as before there were digests
    checkpoint.load_params(tmp_path)


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


def test_schedule_is_linear_with_warm_up():
    config = configs.OptimizerConfig(learning_rate=2.0, warmup_share=0.1)
    schedule = make_schedule(config, 100)
    values = [float(schedule(step)) for step in (0, 5, 10, 55, 100)]
    assert values == pytest.approx([0.0, 1.0, 2.0, 1.0, 0.0])
    flat = configs.OptimizerConfig(
        learning_rate=2.0, warmup_share=0.1, constant_share=0.5
    )
    schedule = make_schedule(flat, 100)
    values = [float(schedule(step)) for step in (10, 60, 80, 100)]
    assert values == pytest.approx([2.0, 2.0, 1.0, 0.0])


def test_hash_sees_every_parameter():
    params = init_params(small())
    names = checkpoint.hash_params(params)
    leaves, tree = jax.tree.flatten(params)
    for i, leaf in enumerate(leaves):
        changed = [*leaves[:i], leaf + 1, *leaves[i + 1 :]]
        assert checkpoint.hash_params(jax.tree.unflatten(tree, changed)) != names
