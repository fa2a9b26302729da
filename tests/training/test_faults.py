"""Faults that a run survives: other devices, NaN, a full disk, SIGKILL."""

import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from relay_jax import config as configs
from relay_jax import config_io, files
from relay_jax.models.sharding import make_mesh, with_shardings
from relay_jax.training import checkpoint, loop, run_dir
from tests.training.runs import FLAGS, OFTEN, small, stop_after

MESH = {"fsdp": 2, "tensor": 2}


def unmeasured(**changes):
    """A run without evaluations."""
    return small(evaluation={"lengths": {}}, **changes)


def losses(path):
    return [line["loss"] for line in files.read_lines(path / "metrics.jsonl")]


def test_a_run_is_resumed_on_another_mesh(tmp_path, monkeypatch):
    """And with gradient accumulation and remat: they do not change what is computed."""
    loop.train(unmeasured(), tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(loop.Stopped, match="stopped at step 3"):
            loop.train(unmeasured(mesh=MESH), tmp_path / "cut")
    values = config_io.to_dict(
        unmeasured(mesh={"data": 2}, keep_checkpoints=1, **OFTEN)
    )
    values["data"]["accumulate"], values["model"]["remat"] = 2, True
    loop.train(config_io.build(configs.TrainConfig, values), tmp_path / "cut")
    np.testing.assert_allclose(*(losses(tmp_path / d) for d in ("cut", "whole")), 1e-5)
    ends = [checkpoint.load_params(tmp_path / d)[1] for d in ("cut", "whole")]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), *ends)


def test_a_state_is_sharded_from_the_start(tmp_path):
    """No device holds a whole matrix when a run is resumed, or starts from another's
    parameters."""
    config = unmeasured(mesh=MESH)
    loop.train(config, tmp_path / "run")
    mesh = make_mesh(config.mesh)
    like = with_shardings(jax.eval_shape(lambda: loop.fresh_state(config)), mesh)
    for settings, folder in ((config, "run"), (unmeasured(init_from="run"), "next")):
        with checkpoint.make_manager(tmp_path / folder, 1) as manager:
            path = tmp_path / folder
            state, _ = loop.first_state(settings, path, manager, like, mesh)
        found = jax.tree.map(lambda x: x.sharding, state)
        assert found == jax.tree.map(lambda x: x.sharding, like)
        kernel = state.params["layer_0"]["feed_forward"]["up"]["kernel"]
        assert kernel.addressable_shards[0].data.size == kernel.size // 4


def spoil(monkeypatch, step, name):
    """Makes metrics and parameters NaN from a step on."""
    make = loop.make_train_step

    def make_spoilt(*args):
        train_step = make(*args)

        def run(state, batch, **rest):
            is_bad = int(state.step) + 1 >= step
            state, metrics = train_step(state, batch, **rest)
            if is_bad:
                nan = jax.tree.map(lambda x: x * np.float32("nan"), state.params)
                metrics |= {name: metrics[name] * np.float32("nan")}
                state = state._replace(params=nan)
            return state, metrics

        return run

    monkeypatch.setattr(loop, "make_train_step", make_spoilt)


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
@pytest.mark.parametrize("often", [OFTEN, {}], ids=["saving", "logging"])
def test_the_first_step_that_is_not_finite_is_named_and_not_saved(
    name, often, tmp_path, monkeypatch
):
    """Whether a checkpoint or a line of metrics comes next."""
    spoil(monkeypatch, 3, name)
    config = small(log_every_steps=5, **often)
    with pytest.raises(FloatingPointError, match=f"{name} is nan at step 3; the check"):
        loop.train(config, tmp_path)
    assert run_dir.checkpoint_steps(tmp_path) == ([1, 2] if often else [])
    if often:
        params = checkpoint.load_params(tmp_path)[1]
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))


def test_too_small_a_disk_is_refused_before_training(tmp_path, monkeypatch):
    few = type("Usage", (), {"free": 100_000})
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: few)
    message = r"has 100,000 bytes of free disk, but 3 checkpoints of \d+,\d+ bytes are"
    with pytest.raises(ValueError, match=message):
        loop.train(small(), tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.fixture
def tiny_disk(tmp_path):
    """A real file system of a few hundred kilobytes, where one may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    try:
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("this user may not mount a file system")
    except OSError:
        pytest.skip("there is no mount here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(tiny_disk, monkeypatch):
    append = files.append_lines

    def fill(path, lines):
        append(path, lines)
        if lines[-1]["step"] == 4:
            room = tiny_disk / "other"
            with pytest.raises(OSError), room.open("wb") as file:
                while True:
                    file.write(bytes(4096))
                    file.flush()

    with monkeypatch.context() as patch:
        patch.setattr(files, "append_lines", fill)
        with pytest.raises((OSError, ValueError), match="(?i)no space left"):
            loop.train(small(**OFTEN), tiny_disk / "run")
    assert run_dir.checkpoint_steps(tiny_disk / "run")[-1] >= 2
    checkpoint.load_params(tiny_disk / "run")
    (tiny_disk / "other").unlink()
    again = loop.train(small(**OFTEN), tiny_disk / "run")
    whole = loop.train(small(**OFTEN), tiny_disk.parent / "whole")
    assert again["params_sha256"] == whole["params_sha256"]


KILLED = """
import os, pathlib, signal, sys, threading
from relay_jax.training import loop
from tests.training.test_faults import AVERAGING, small
folder = pathlib.Path(sys.argv[1]) / "checkpoints"
def watch():
    while True:
        names = os.listdir(folder) if folder.exists() else []
        if "2" in names and any("tmp" in name for name in names):
            os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=watch, daemon=True).start()
loop.train(small(**AVERAGING), sys.argv[1])
"""
AVERAGING = OFTEN | {"optimizer": {"average_share": 0.5}}


def test_killed_while_it_writes_a_checkpoint_a_run_ends_with_the_same_parameters(
    tmp_path,
):
    """A real SIGKILL: the run is resumed from the checkpoint before."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "cut")],
        env=os.environ | FLAGS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    names = [path.name for path in (tmp_path / "cut" / "checkpoints").iterdir()]
    assert any("tmp" in name for name in names), names  # it was writing one
    assert not (tmp_path / "cut" / "summary.json").exists()
    checkpoint.load_params(tmp_path / "cut")
    again = loop.train(small(**AVERAGING), tmp_path / "cut")
    whole = loop.train(small(**AVERAGING), tmp_path / "whole")
    assert again["params_sha256"] == whole["params_sha256"]
    lines = [files.read_lines(tmp_path / d / "metrics.jsonl") for d in ("whole", "cut")]
    lines = [[(line["step"], line["loss"]) for line in each] for each in lines]
    assert lines[0] == lines[1] and len(lines[0]) == 6
