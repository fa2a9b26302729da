"""The store on disk: its order, its boundaries, and what must not open."""

import json

import numpy as np
import pytest

from relay_jax.rest import datastore
from relay_jax.rest.datastore import build_datastore, open_datastore, order_places

WORDS = {"tokenizer": "test", "vocab_size": 50, "eos_id": 1}


def documents(seed=0, num=20):
    rng = np.random.default_rng(seed)
    return [rng.integers(2, 9, size=rng.integers(1, 30)) for _ in range(num)]


def before(tokens, place):
    return tokens[:place][::-1].tolist()


@pytest.mark.parametrize("vocab_size", [9, 5_000, 65_535, 128_256])
def test_places_are_sorted_by_the_text_before_them(vocab_size):
    rng = np.random.default_rng(vocab_size)
    few = rng.integers(vocab_size, size=6)  # repeats, and ids of every size
    tokens = rng.choice([*few, 0, vocab_size - 1], size=400)
    tokens = tokens.astype(datastore.token_dtype(vocab_size))
    order = order_places(tokens)
    assert sorted(order) == list(range(1, 401))
    texts = [before(tokens, place) for place in order]
    assert texts == sorted(texts)


def test_documents_end_with_the_end_of_text(tmp_path):
    texts = documents()
    store = build_datastore(texts, tmp_path / "store", **WORDS)
    expected = np.concatenate([[*text, 1] for text in texts])
    np.testing.assert_array_equal(store.shards[0].tokens, expected)
    assert store.num_documents == len(texts) and store.num_tokens == len(expected)
    assert store.shards[0].tokens.dtype == np.uint16


def test_shards_hold_the_same_tokens(tmp_path):
    texts = documents()
    whole = build_datastore(texts, tmp_path / "one", **WORDS)
    parts = build_datastore(texts, tmp_path / "many", shard_tokens=37, **WORDS)
    assert len(parts.shards) == -(-whole.num_tokens // 37)
    joined = np.concatenate([shard.tokens for shard in parts.shards])
    np.testing.assert_array_equal(joined, whole.shards[0].tokens)


def test_a_wide_vocabulary_takes_32_bits(tmp_path):
    words = WORDS | {"vocab_size": 128_256}
    store = build_datastore([np.array([5, 128_255])], tmp_path / "s", **words)
    np.testing.assert_array_equal(store.shards[0].tokens, [5, 128_255, 1])


def test_nothing_is_replaced_unless_asked(tmp_path):
    path = tmp_path / "store"
    build_datastore(documents(0), path, **WORDS)
    with pytest.raises(ValueError, match="exists; choose another place or give"):
        build_datastore(documents(1), path, **WORDS)
    again = build_datastore(documents(1), path, overwrite=True, **WORDS)
    assert again.num_documents == 20
    assert [file.name for file in tmp_path.iterdir()] == ["store"]


def test_an_interrupted_build_leaves_nothing_that_opens(tmp_path, monkeypatch):
    path, texts = tmp_path / "store", documents()

    def cut_short():
        yield from texts[:10]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_datastore(cut_short(), path, shard_tokens=40, **WORDS)
    with pytest.raises(ValueError, match="is not a datastore"):
        open_datastore(path)
    with pytest.raises(ValueError, match="is not a datastore"):
        open_datastore(tmp_path / "store.partial")
    # Going on sorts only what is not there yet, and the result is the same.
    sorted_, sort = [], datastore.order_places
    monkeypatch.setattr(
        datastore, "order_places", lambda t: (sorted_.append(1), sort(t))[1]
    )
    store = build_datastore(texts, path, shard_tokens=40, **WORDS)
    assert 0 < len(sorted_) < len(store.shards)
    other = build_datastore(texts, tmp_path / "other", shard_tokens=40, **WORDS)
    for one, two in zip(store.shards, other.shards, strict=True):
        np.testing.assert_array_equal(one.order, two.order)


def test_an_altered_shard_is_sorted_again(tmp_path):
    """What is left of a build with other documents is not used."""
    path = tmp_path / "store"

    def cut_short():
        yield from documents(1)[:10]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_datastore(cut_short(), path, shard_tokens=40, **WORDS)
    store = build_datastore(documents(0), path, shard_tokens=40, **WORDS)
    for shard in store.shards:
        np.testing.assert_array_equal(shard.order, order_places(shard.tokens))


def test_damage_is_found(tmp_path):
    path = tmp_path / "store"
    build_datastore(documents(), path, **WORDS)
    file = path / "order_00000.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    with pytest.raises(ValueError, match=r"order_00000.npy has \d+ bytes.*build it a"):
        open_datastore(path)
    file.write_bytes(whole[:-4] + b"\0\0\0\7")
    with pytest.raises(ValueError, match="is not what was written"):
        open_datastore(path)
    file.write_bytes(whole)
    (path / "metadata.json").write_text("{")
    with pytest.raises(ValueError, match="metadata.json is damaged"):
        open_datastore(path)


def test_every_byte_is_checked_when_asked(tmp_path):
    path = tmp_path / "store"
    build_datastore([np.full(200_000, 5)], path, **WORDS)
    file = path / "tokens_00000.npy"
    content = bytearray(file.read_bytes())
    content[20_000] ^= 1  # between the blocks that are always checked
    file.write_bytes(content)
    open_datastore(path)
    with pytest.raises(ValueError, match="is not what was written"):
        open_datastore(path, verify=True)


def test_foreign_stores_do_not_open(tmp_path):
    path = tmp_path / "store"
    build_datastore(documents(), path, **WORDS)
    open_datastore(path, tokenizer="test")
    with pytest.raises(ValueError, match="built with the tokenizer 'test'.*'other'"):
        open_datastore(path, tokenizer="other")
    metadata = json.loads((path / "metadata.json").read_text())
    (path / "metadata.json").write_text(json.dumps(metadata | {"format": 99}))
    with pytest.raises(ValueError, match="has format 99, this version reads 1"):
        open_datastore(path)


@pytest.mark.parametrize(
    "texts, options, message",
    [
        ([], {}, "the corpus is empty"),
        ([np.array([5, 50])], {}, "token id 50, outside the vocabulary of 50"),
        ([np.array([5, -1])], {}, "token id -1, outside"),
        ([np.array([5])], {"eos_id": 50}, "eos_id 50 is outside"),
        ([np.array([5])], {"shard_tokens": 0}, "shard_tokens must be 1"),
    ],
)
def test_bad_input(tmp_path, texts, options, message):
    with pytest.raises(ValueError, match=message):
        build_datastore(texts, tmp_path / "store", **(WORDS | options))
    assert not (tmp_path / "store").exists()
