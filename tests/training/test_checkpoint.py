"""Checkpoints: damaged or altered ones are never loaded."""

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
