"""The file of targets: what is written is read, and what does not fit is refused."""

import numpy as np
import pytest

from relay_jax.config import DraftConfig, MeshConfig
from relay_jax.models.sharding import make_mesh
from relay_jax.rest.build import build_datastore
from relay_jax.rest.index import load_index
from relay_jax.rest.replay import (
    Target,
    load_targets,
    replay_targets,
    sample_texts,
    save_targets,
    time_drafter,
)

TEXTS = [Target(np.arange(2, 9, dtype=np.int32), 3), Target(np.arange(4, 6), 1)]


def test_targets_are_saved_in_a_file(tmp_path):
    file = tmp_path / "targets.npz"
    save_targets(file, TEXTS)
    for one, two in zip(load_targets(file), TEXTS, strict=True):
        np.testing.assert_array_equal(one.tokens, two.tokens)
        assert one.prompt_length == two.prompt_length
    with pytest.raises(ValueError, match="exists; choose another file or give --overw"):
        save_targets(file, TEXTS)
    save_targets(file, TEXTS[:1], overwrite=True)
    assert len(load_targets(file)) == 1
    with pytest.raises(ValueError, match="there is nothing to draft"):
        save_targets(tmp_path / "none.npz", [])


def test_a_replay_is_the_same_over_a_mesh(tmp_path):
    vocab = {"tokenizer": "test", "vocab_size": 12, "eos_id": 1}
    texts = list(np.random.default_rng(0).integers(2, 12, (20, 20)))
    store = build_datastore(texts, tmp_path / "store", shard_tokens=200, **vocab)
    draft = DraftConfig(num_draft=4, depth=4, num_store_rows=8, num_text_rows=8)
    targets = [Target(text, 3) for text in texts[:2]]
    indexes = load_index(store), load_index(store, make_mesh(MeshConfig(data=0)))
    one, two = (replay_targets(targets, index, draft, 2) for index in indexes)
    assert one == two and one[0].steps < one[0].new_tokens / 2
    drawn = sample_texts(targets, 3)
    assert np.all(time_drafter(drawn, indexes[1], draft) > 0)


@pytest.mark.parametrize("name", ["token_recycling", "mixed"])
def test_without_a_model_there_are_no_logits_to_draft_from(name):
    with pytest.raises(
        ValueError, match=f"'{name}' drafts from the model's own logits"
    ):
        replay_targets(TEXTS, None, DraftConfig(name))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"starts": np.array([0, 9, 4])}, "starts must increase from 0 to at most 9"),
        (
            {"starts": np.array([0, 9, 4], np.uint32)},
            "starts must increase from 0 to at m",
        ),
        ({"starts": np.array([0, 7, 10])}, "starts must increase from 0 to at most 9"),
        (
            {"starts": np.array([0])},
            r"as many as prompt_lengths \(2\), or one more; go",
        ),
        (
            {"starts": np.array([0.0, 7])},
            "targets.npz: starts must be a one-dimensional array of int",
        ),
        ({"prompt_lengths": np.array([3, 0])}, "every prompt needs at least one token"),
        (
            {"tokens": np.arange(9) + 2**32},
            r"contains the token id 4294967296, which is",
        ),
        (
            {"tokens": np.arange(9) - 2},
            "contains the token id -2, which is no token id",
        ),
        (
            {"prompt_lengths": np.array([7, 2])},
            "no text that is longer than its prompt",
        ),
    ],
)
def test_targets_that_do_not_fit(tmp_path, changes, message):
    arrays = {"tokens": np.arange(9), "starts": np.array([0, 7])}
    np.savez(
        tmp_path / "targets.npz",
        **arrays | {"prompt_lengths": np.array([3, 1])} | changes,
    )
    with pytest.raises(ValueError, match=message):
        load_targets(tmp_path / "targets.npz")


def test_files_that_hold_no_targets(tmp_path):
    np.save(tmp_path / "t.npy", np.arange(3))
    with pytest.raises(
        ValueError, match=r"t.npy cannot be read .* expected a .npz file"
    ):
        load_targets(tmp_path / "t.npy")
    save_targets(tmp_path / "t.npz", TEXTS)
    content = (tmp_path / "t.npz").read_bytes()
    (tmp_path / "t.npz").write_bytes(content[:-100])
    with pytest.raises(ValueError, match=r"t.npz cannot be read \(File is not a zip"):
        load_targets(tmp_path / "t.npz")
    with pytest.raises(ValueError, match="experiments/replay.py --make makes one"):
        load_targets(tmp_path / "none.npz")
