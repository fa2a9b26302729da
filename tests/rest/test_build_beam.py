"""A store built in parts is the plain one, byte for byte. Here the items are done one by
one in this process, as no runner is needed for it; tests/beam has the runners."""

import json
from functools import partial

import numpy as np
import pytest

from relay_jax.beam import Workers
from relay_jax.rest import build, build_beam
from relay_jax.rest.build import build_datastore
from relay_jax.rest.build_beam import Span, build_from_parts, cut
from relay_jax.rest.datastore import open_datastore

WORDS = {"tokenizer": "test", "vocab_size": 50, "eos_id": 1}
NOBODY = Workers("none")


@pytest.fixture(autouse=True)
def done_here(monkeypatch):
    """Items in another order than theirs, some twice, and JSON between."""

    def run_on_workers(work, items, workers, scratch):
        items = list(enumerate(items))
        assert scratch.is_dir()
        told = {n: json.dumps(work(*item)) for n, item in [*items[::-1], *items[:2]]}
        return [json.loads(told[n]) for n, _ in items]

    monkeypatch.setattr(build_beam, "run_on_workers", run_on_workers)


def documents(seed=0, num=20):
    """Some are empty, some end with the end of text, some are longer than a shard."""
    rng = np.random.default_rng(seed)
    made = [rng.integers(2, 50, size=rng.integers(0, 30)) for _ in range(num)]
    made[3], made[7] = np.append(made[3], 1), rng.integers(2, 50, size=150)
    return made


def in_parts(texts, size):
    return [partial(list, texts[i : i + size]) for i in range(0, len(texts), size)]


def files(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize("shard_tokens", [41, 10_000])
@pytest.mark.parametrize("size", [1, 6])
@pytest.mark.parametrize("vocab_size", [50, 128_256])
def test_the_files_are_those_of_the_plain_builder(
    tmp_path, shard_tokens, size, vocab_size
):
    texts, words = documents(), WORDS | {"vocab_size": vocab_size}
    options = words | {"shard_tokens": shard_tokens}
    plain = build_datastore(texts, tmp_path / "plain", **options)
    store = build_from_parts(
        in_parts(texts, size), tmp_path / "store", NOBODY, **options
    )
    assert files(tmp_path / "store") == files(tmp_path / "plain")
    assert store.num_documents == plain.num_documents
    assert sorted(file.name for file in tmp_path.iterdir()) == ["plain", "store"]


def test_parts_without_documents_are_passed_over(tmp_path):
    texts = documents()
    some = [partial(list, []), *in_parts(texts, 9), partial(list, [np.zeros(0, int)])]
    build_datastore(texts, tmp_path / "plain", **WORDS)
    build_from_parts(some, tmp_path / "store", NOBODY, **WORDS)
    assert files(tmp_path / "store") == files(tmp_path / "plain")


def test_cut():
    assert cut([4, 3], 5) == [[Span(0, 0, 4), Span(1, 0, 1)], [Span(1, 1, 2)]]
    assert cut([0, 5, 0, 1], 5) == [[Span(1, 0, 5)], [Span(3, 0, 1)]]
    assert cut([11], 5) == [[Span(0, 0, 5)], [Span(0, 5, 5)], [Span(0, 10, 1)]]
    assert cut([], 5) == cut([0, 0], 5) == []


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
        build_from_parts(
            in_parts(texts, 1), tmp_path / "store", NOBODY, **(WORDS | options)
        )
    assert not list(tmp_path.iterdir())


def test_nothing_is_replaced_unless_asked(tmp_path):
    def never():
        raise AssertionError("a part was read")

    build_datastore(documents(), tmp_path / "store", **WORDS)
    before = files(tmp_path / "store")
    with pytest.raises(ValueError, match="exists; choose another place or give"):
        build_from_parts([never], tmp_path / "store", NOBODY, **WORDS)
    assert files(tmp_path / "store") == before


@pytest.mark.parametrize("writes", [0, 1, 4, 9])
def test_a_failed_overwrite_leaves_the_old_store_and_is_gone_on_with(
    tmp_path, monkeypatch, writes
):
    path, count = tmp_path / "store", 0
    old = build_datastore(documents(0), path, shard_tokens=100, **WORDS)
    texts, sorted_ = in_parts(documents(1), 6), []
    save, sort = build._save, build.sort_suffixes

    def fails(*args):
        nonlocal count
        count += 1
        if count > writes:
            raise OSError("the disk is full")
        return save(*args)

    monkeypatch.setattr(build, "_save", fails)
    options = WORDS | {"shard_tokens": 100, "overwrite": True}
    with pytest.raises(OSError, match="the disk is full"):
        build_from_parts(texts, path, NOBODY, **options)
    assert open_datastore(path, verify=True).checksums == old.checksums
    assert [file.name for file in tmp_path.iterdir()] == ["store"]
    monkeypatch.setattr(build, "_save", save)
    monkeypatch.setattr(
        build, "sort_suffixes", lambda t: (sorted_.append(1), sort(t))[1]
    )
    made = build_from_parts(texts, path, NOBODY, **options)
    assert len(sorted_) == len(made.shards) - writes // 2
    build_datastore(documents(1), tmp_path / "plain", shard_tokens=100, **WORDS)
    assert files(path) == files(tmp_path / "plain")
