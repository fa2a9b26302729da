"""A datastore built of partitions has the bytes of the plain one. Here all items are
processed in this process, without a runner; tests/beam has the runners."""

import json
from functools import partial

import numpy as np
import pytest

from relay_jax.beam import Workers
from relay_jax.rest import build, build_beam
from relay_jax.rest.build import build_datastore
from relay_jax.rest.build_beam import Span, build_datastore_beam, split_shards
from relay_jax.rest.datastore import open_datastore

VOCAB = {"tokenizer": "test", "vocab_size": 50, "eos_id": 1}
NO_WORKERS = Workers("none")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Items are processed in reverse order, some twice, and results pass as JSON."""

    def run_on_workers(work, items, workers, scratch):
        items = list(enumerate(items))
        assert scratch.is_dir()
        results = {n: json.dumps(work(*item)) for n, item in [*items[::-1], *items[:2]]}
        return [json.loads(results[n]) for n, _ in items]

    monkeypatch.setattr(build_beam, "run_on_workers", run_on_workers)


def documents(seed=0, num=20):
    """Some are empty, one ends with the end of text, one is longer than a shard."""
    rng = np.random.default_rng(seed)
    texts = [rng.integers(2, 50, size=rng.integers(0, 30)) for _ in range(num)]
    texts[3], texts[7] = np.append(texts[3], 1), rng.integers(2, 50, size=150)
    return texts


def partitions(texts, size):
    return [partial(list, texts[i : i + size]) for i in range(0, len(texts), size)]


def files(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize("shard_tokens", [41, 10_000])
@pytest.mark.parametrize("size", [1, 6])
@pytest.mark.parametrize("vocab_size", [50, 128_256])
def test_the_files_are_those_of_the_plain_builder(
    tmp_path, shard_tokens, size, vocab_size
):
    texts, vocab = documents(), VOCAB | {"vocab_size": vocab_size}
    options = vocab | {"shard_tokens": shard_tokens}
    plain = build_datastore(texts, tmp_path / "plain", **options)
    store = build_datastore_beam(
        partitions(texts, size), tmp_path / "store", NO_WORKERS, **options
    )
    assert files(tmp_path / "store") == files(tmp_path / "plain")
    assert store.num_documents == plain.num_documents
    assert sorted(file.name for file in tmp_path.iterdir()) == ["plain", "store"]


def test_empty_partitions_are_skipped(tmp_path):
    texts = documents()
    some = [partial(list, []), *partitions(texts, 9), partial(list, [np.zeros(0, int)])]
    build_datastore(texts, tmp_path / "plain", **VOCAB)
    build_datastore_beam(some, tmp_path / "store", NO_WORKERS, **VOCAB)
    assert files(tmp_path / "store") == files(tmp_path / "plain")


def test_the_spans_of_each_shard():
    assert split_shards([4, 3], 5) == [[Span(0, 0, 4), Span(1, 0, 1)], [Span(1, 1, 2)]]
    assert split_shards([0, 5, 0, 1], 5) == [[Span(1, 0, 5)], [Span(3, 0, 1)]]
    assert split_shards([11], 5) == [[Span(0, 0, 5)], [Span(0, 5, 5)], [Span(0, 10, 1)]]
    assert split_shards([], 5) == split_shards([0, 0], 5) == []


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "the corpus is empty"),
        ([np.array([5, 50])], {}, "token id 50, outside the vocabulary of 50"),
        ([np.array([5])], {"eos_id": 50}, "eos_id 50 is outside"),
        ([np.array([5])], {"shard_tokens": 0}, "shard_tokens must be 1"),
    ],
)
def test_bad_input_leaves_nothing(tmp_path, texts, options, message):
    with pytest.raises(ValueError, match=message):
        build_datastore_beam(
            partitions(texts, 1), tmp_path / "store", NO_WORKERS, **(VOCAB | options)
        )
    assert not list(tmp_path.iterdir())


def test_nothing_is_replaced_unless_asked(tmp_path):
    def never():
        raise AssertionError("a partition was read")

    build_datastore(documents(), tmp_path / "store", **VOCAB)
    before = files(tmp_path / "store")
    with pytest.raises(ValueError, match="exists; choose another directory or give"):
        build_datastore_beam([never], tmp_path / "store", NO_WORKERS, **VOCAB)
    assert files(tmp_path / "store") == before


@pytest.mark.parametrize("writes", [0, 1, 4, 9])
def test_a_failed_overwrite_leaves_the_old_store_and_can_be_resumed(
    tmp_path, monkeypatch, writes
):
    path, count = tmp_path / "store", 0
    old = build_datastore(documents(0), path, shard_tokens=100, **VOCAB)
    texts, sorted_ = partitions(documents(1), 6), []
    save, sort = build._save, build.sort_suffixes

    def fails(*args):
        nonlocal count
        count += 1
        if count > writes:
            raise OSError("the disk is full")
        return save(*args)

    monkeypatch.setattr(build, "_save", fails)
    options = VOCAB | {"shard_tokens": 100, "overwrite": True}
    with pytest.raises(OSError, match="the disk is full"):
        build_datastore_beam(texts, path, NO_WORKERS, **options)
    assert open_datastore(path, verify=True).checksums == old.checksums
    assert [file.name for file in tmp_path.iterdir()] == ["store"]
    monkeypatch.setattr(build, "_save", save)
    monkeypatch.setattr(
        build, "sort_suffixes", lambda t: (sorted_.append(1), sort(t))[1]
    )
    store = build_datastore_beam(texts, path, NO_WORKERS, **options)
    assert len(sorted_) == len(store.shards) - writes // 2
    build_datastore(documents(1), tmp_path / "plain", shard_tokens=100, **VOCAB)
    assert files(path) == files(tmp_path / "plain")
