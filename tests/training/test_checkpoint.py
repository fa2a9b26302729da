"""Checkpoints: damaged or altered ones are never loaded."""

import sys
import types

import jax
import pytest

from relay_jax import files
from relay_jax.training import checkpoint, loop, run_dir
from relay_jax.training.step import init_params, init_state
from tests.training.runs import small


@pytest.fixture(scope="module")
def state():
    return init_state(small(), init_params(small()))


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
    message = r"checkpoints/2 cannot be read .* remove that folder to resume"
    with pytest.raises(ValueError, match=message):
        checkpoint.load_params(tmp_path / "run")


def test_a_flipped_bit_is_found_or_changes_nothing(tmp_path, state):
    run_dir.open_run(tmp_path, small())
    with checkpoint.make_manager(tmp_path, 1) as manager:
        checkpoint.save(manager, state, seconds=1.5)
    params_hash = checkpoint.hash_params(state.params)
    state_hash = checkpoint.hash_params(state._asdict())
    num_refused = 0
    for file in (tmp_path / "checkpoints/0/state").rglob("d/*"):
        content = file.read_bytes()
        middle = len(content) // 2
        flipped = bytes([content[middle] ^ 4])
        file.write_bytes(content[:middle] + flipped + content[middle + 1 :])
        try:
            _, params = checkpoint.load_params(tmp_path)
            assert checkpoint.hash_params(params) == params_hash
            with checkpoint.make_manager(tmp_path, 1) as manager:
                found, seconds = checkpoint.restore(manager, state)
            assert checkpoint.hash_params(found._asdict()) == state_hash
            assert seconds == 1.5
        except ValueError as error:
            num_refused += 1
            assert "checkpoints/0 cannot be read" in str(error)
            assert "remove that folder" in str(error)
        file.write_bytes(content)
    assert num_refused


def test_other_values_are_refused_and_a_checkpoint_without_hashes_is_not(
    tmp_path, monkeypatch, state
):
    run_dir.open_run(tmp_path, small())
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
    files.write_json(file, {"seconds": 1.5})  # as an earlier version wrote it
    checkpoint.load_params(tmp_path)


def test_the_hash_depends_on_every_parameter(state):
    whole = checkpoint.hash_params(state.params)
    leaves, tree = jax.tree.flatten(state.params)
    for i, leaf in enumerate(leaves):
        changed = [*leaves[:i], leaf + 1, *leaves[i + 1 :]]
        assert checkpoint.hash_params(jax.tree.unflatten(tree, changed)) != whole


@pytest.mark.parametrize("name", ["br[1]", "st*r", "[ab]", "a b,c", "~", "100%s#{x}"])
def test_a_directory_may_have_any_name(tmp_path, state, name):
    (tmp_path / "a").mkdir()  # which [ab] would match
    run_dir.open_run(tmp_path / name, small())
    with checkpoint.make_manager(tmp_path / name, 1) as manager:
        checkpoint.save(manager, state, seconds=1.5)
    with checkpoint.make_manager(tmp_path / name, 1) as manager:
        found, _ = checkpoint.restore(manager, state)
    assert checkpoint.hash_params(found.params) == checkpoint.hash_params(state.params)


def test_an_empty_folder_of_a_newer_step_is_no_checkpoint(tmp_path, state):
    run_dir.open_run(tmp_path, small())
    with checkpoint.make_manager(tmp_path, 2) as manager:
        checkpoint.save(manager, state, seconds=1.5)
    files.write_json(tmp_path / "summary.json", {"steps": 0})
    empty = tmp_path / "checkpoints" / "7"
    for names, newest in (((), 0), (("7", "²", "3.tmp"), 0)):
        for name in names:
            (tmp_path / "checkpoints" / name).mkdir()
        assert run_dir.newest_step(tmp_path) == newest
        assert run_dir.is_finished(tmp_path)
        checkpoint.load_params(tmp_path)
    empty.mkdir(exist_ok=True)
    with checkpoint.make_manager(tmp_path, 2) as manager:  # goes on from step 0
        assert not empty.exists() and manager.latest_step() == 0
        checkpoint.save(manager, state._replace(step=state.step + 5), seconds=2.0)
    assert run_dir.checkpoint_steps(tmp_path) == [0, 5]
    message = r"is a finished run of 0 steps, but has .* of step 5; remove .*points/5, "
    with pytest.raises(ValueError, match=message):
        checkpoint.load_params(tmp_path)


def test_reads_that_end_after_a_failed_one_are_quiet(monkeypatch):
    """Orbax has closed its event loop; only the error itself is said."""
    reports = []
    monkeypatch.setattr(sys, "unraisablehook", reports.append)

    def report(text):
        error = types.SimpleNamespace(exc_value=RuntimeError(text))
        sys.unraisablehook(error)
        return [str(each.exc_value) for each in reports]

    with pytest.raises(KeyError), checkpoint._quiet_reads():
        raise KeyError
    assert report("Event loop is closed") == [] and report("else") == ["else"]
    monkeypatch.setattr(sys, "unraisablehook", reports.append)
    with checkpoint._quiet_reads():
        pass
    assert sys.unraisablehook == reports.append
