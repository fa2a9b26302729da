"""Retrieval against a scan of the whole corpus; device, host and mesh agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.config import MeshConfig
from relay_jax.decoding.acceptance import match_kind
from relay_jax.decoding.draft_tree import END
from relay_jax.models.sharding import make_mesh
from relay_jax.rest import prompt_lookup, retrieval
from relay_jax.rest.build import build_datastore
from relay_jax.rest.index import HostIndex, Matches, load_index

EOS, DEPTH = 1, 6


def make_store(path, shard_tokens=10_000, vocab_size=50, seed=0):
    rng = np.random.default_rng(seed)
    texts = [rng.integers(2, 6, size=rng.integers(1, 60)) for _ in range(60)]
    return build_datastore(
        texts,
        path / "store",
        tokenizer="test",
        vocab_size=vocab_size,
        eos_id=EOS,
        shard_tokens=shard_tokens,
    )


def queries(num=24, seed=1):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, 6, size=(num, 40))
    tokens[0] = 49  # a token that the corpus does not have
    length = rng.integers(1, 41, size=num)
    return retrieval.last_tokens(jnp.asarray(tokens), jnp.asarray(length))


def match_length(tokens, position, query):
    count = 0
    while (
        count < 16 and position > count and tokens[position - 1 - count] == query[count]
    ):
        count += 1
    return count


def continuation(tokens, position):
    expected_tokens = list(tokens[position : position + DEPTH])
    if EOS in expected_tokens:
        expected_tokens = expected_tokens[: expected_tokens.index(EOS) + 1]
    return (*expected_tokens, *[END] * (DEPTH - len(expected_tokens)))


def scan(store, query):
    """(match length, continuation) of every position, by a slow scan."""
    for shard in store.shards:
        tokens = shard.tokens.tolist()
        for position in range(1, len(tokens) + 1):
            yield match_length(tokens, position, query), continuation(tokens, position)


def test_the_query_is_the_text_read_backwards():
    tokens = jnp.asarray([[5, 6, 7, 0], [8, 9, 0, 0]])
    query = retrieval.last_tokens(tokens, jnp.asarray([3, 2]))
    np.testing.assert_array_equal(query[:, :4], [[7, 6, 5, -1], [9, 8, -1, -1]])


@pytest.mark.parametrize("find", [retrieval.nearest, retrieval.longest])
def test_the_first_and_the_last_row_are_found(tmp_path, find):
    """The left contexts that sort first, after the whole document, and last, after 9."""
    store = build_datastore(
        [np.array([3, 2, 7, 9, 8, 9])],
        tmp_path / "store",
        tokenizer="test",
        vocab_size=50,
        eos_id=EOS,
    )
    assert store.shards[0].suffix_array.tolist()[::6] == [7, 6]
    text = jnp.asarray([[9, EOS], [8, 9]])
    query = retrieval.last_tokens(text, jnp.asarray([2, 2]))
    found = find(load_index(store), query, 4, DEPTH)
    best = np.argmax(found.length, axis=1)
    for row, expected in enumerate([(END,) * DEPTH, (EOS, *[END] * 5)]):
        assert found.length[row, best[row]] == 2
        assert tuple(found.tokens[row, best[row]].tolist()) == expected


def test_matches_are_weighted_by_their_length():
    length = jnp.asarray([[-1, 0, 1, 2, 3, 16]])
    found = Matches(jnp.zeros((1, 6, DEPTH), jnp.int32), length)
    sequences = retrieval.weigh(found, (5, 0, 7), "datastore")
    assert sequences.weight.tolist() == [[0, 5, 0, 7, 7, 7]]
    kinds = match_kind("datastore", length)
    np.testing.assert_array_equal(sequences.kind, kinds)


@pytest.mark.parametrize("shard_tokens", [10_000, 300])
def test_the_longest_matches_are_among_the_nearest(tmp_path, shard_tokens):
    store = make_store(tmp_path, shard_tokens)
    asked, num = queries(), 16
    found = jax.jit(retrieval.nearest, static_argnums=(2, 3))(
        load_index(store), asked, num, DEPTH
    )
    for query, expected_tokens, length in zip(
        np.asarray(asked), *map(np.asarray, found)
    ):
        every = list(scan(store, query.tolist()))
        best = max(length_ for length_, _ in every)
        assert length.max() == best
        real = set(every)
        for row, match in zip(expected_tokens.tolist(), length.tolist()):
            assert match == 0 or (match, tuple(row)) in real
        # No entry outside matches better than the worst inside: rows are neighbours.
        if len(store.shards) == 1:
            longer = sum(length_ == best for length_, _ in every)
            assert min(longer, num // 2) <= np.sum(length == best) <= longer


@pytest.mark.parametrize("shard_tokens", [10_000, 300])
def test_the_papers_policy_takes_the_longest_matches_only(tmp_path, shard_tokens):
    store = make_store(tmp_path, shard_tokens)
    asked, num = queries(), 512
    found = retrieval.longest(load_index(store), asked, num, DEPTH)
    for query, expected_tokens, length in zip(
        np.asarray(asked), *map(np.asarray, found)
    ):
        every = list(scan(store, query.tolist()))
        best = max(length_ for length_, _ in every)
        expected = sorted(t for n, t in every if n == best) if best > 1 else []
        if len(expected) <= num:
            assert sorted(map(tuple, expected_tokens[length > 0].tolist())) == expected
        assert set(length[length > 0]) <= {best}


@pytest.mark.parametrize("size", [255, 256, 257])
def test_a_search_counts_the_rows_that_sort_before_a_query(tmp_path, size):
    """Also those of a shard of 2^k tokens, before all rows and after all of them."""
    rng = np.random.default_rng(0)
    texts = np.array_split(rng.integers(2, 6, size=size - 5), 5)
    vocab = {"tokenizer": "test", "vocab_size": 50, "eos_id": EOS}
    (shard,) = build_datastore(texts, tmp_path / "s", **vocab).shards
    padded = np.concatenate([np.full(16, retrieval.NO_CORPUS), shard.tokens])
    context = [tuple(padded[p : p + 16][::-1]) for p in shard.suffix_array]
    assert len(context) == size and context == sorted(context)
    asked = np.array([*context, [0] * 16, [49] * 16], np.int32)
    asked[1::3, 5:] = 3  # not all of them are the context of a row
    for length in (2, 16):
        cut = [row[:length] for row in context]
        for count_equals in (False, True):
            found = retrieval._count_before(
                np, shard, np.int32(size), asked, length, count_equals
            )
            for count, query in zip(found, map(tuple, asked[:, :length])):
                limit = sum(
                    row < query or (count_equals and row == query) for row in cut
                )
                assert count == limit


@pytest.mark.parametrize("num", [20, 24, 499])
def test_of_many_matches_evenly_spread_ones_are_taken(tmp_path, num):
    """500 entries match equally; the selected ones are spread over all of them, also
    where their number does not divide 500."""
    texts = [[i % 40 + 2, 44, 45, 46, i % 40 + 2] for i in range(500)]
    vocab = {"tokenizer": "test", "vocab_size": 50, "eos_id": EOS}
    store = build_datastore(map(np.array, texts), tmp_path / "s", **vocab)
    query = jnp.full((1, 16), -1).at[0, :3].set(jnp.array([46, 45, 44]))
    found = retrieval.longest(load_index(store), query, num, 1)
    np.testing.assert_array_equal(found.length, [[3] * num])
    ordered = sorted(text[0] for text in texts)
    spread = [ordered[i * 500 // num] for i in range(num)]
    np.testing.assert_array_equal(found.tokens[0, :, 0], spread)


@pytest.mark.parametrize("find", [retrieval.nearest, retrieval.longest])
def test_of_equal_matches_every_shard_gives_some(tmp_path, find):
    """In one shard 48 is always followed by 10, in the other always by 20."""
    texts = [[47, 48, 10 * (1 + i // 100)] for i in range(200)]
    vocab = {"tokenizer": "test", "vocab_size": 50, "eos_id": EOS}
    store = build_datastore(
        map(np.array, texts), tmp_path / "s", shard_tokens=400, **vocab
    )
    assert len(store.shards) == 2
    query = jnp.full((1, 16), -1).at[0, :2].set(jnp.array([48, 47]))
    found = find(load_index(store), query, 32, 1)
    expected_tokens = found.tokens[0, :, 0][found.length[0] == 2].tolist()
    assert len(expected_tokens) == 32 and 8 <= expected_tokens.count(10) <= 24


def test_of_many_short_matches_the_nearest_rows_are_a_wide_sample(tmp_path):
    """2,000 entries match one token: 256 rows, the farther the sparser, reach most of
    them; of a longer match's 20 entries none is skipped."""
    texts = [[2 + i // 20, 48, 2 + i // 20] for i in range(2000)]
    vocab = {"tokenizer": "test", "vocab_size": 128, "eos_id": EOS}
    store = build_datastore(map(np.array, texts), tmp_path / "s", **vocab)
    query = jnp.full((1, 16), -1).at[0, :2].set(jnp.array([48, 52]))
    index = load_index(store)
    found = retrieval.nearest(index, query, 256, 1)
    expected_tokens, length = found.tokens[0, :, 0], found.length[0]
    np.testing.assert_array_equal(expected_tokens[length == 2], [52] * 20)
    assert len(np.unique(expected_tokens[length == 1])) > 80
    np.testing.assert_array_equal(
        retrieval.nearest(HostIndex(store), query, 256, 1).tokens, found.tokens
    )


def test_offsets_of_any_number_of_rows_fit_in_32_bits():
    offsets = retrieval._offsets(2001)
    assert offsets.dtype == np.int32 and len(offsets) == 2001
    assert np.all(np.diff(offsets) >= 0)
    assert -(2**30) < offsets[0] and offsets[-1] < 2**30
    np.testing.assert_array_equal(retrieval._offsets(5), [-2, -1, 0, 1, 2])


def test_no_draft_crosses_a_document(tmp_path):
    found = retrieval.nearest(load_index(make_store(tmp_path)), queries(), 64, DEPTH)
    expected_tokens = np.asarray(found.tokens)
    assert np.any(expected_tokens == EOS)
    after = np.cumsum(expected_tokens == EOS, axis=-1) - (expected_tokens == EOS) > 0
    assert np.all(expected_tokens[after] == END)


@pytest.mark.parametrize("find", [retrieval.nearest, retrieval.longest])
@pytest.mark.parametrize("shard_tokens", [10_000, 150])
@pytest.mark.parametrize("vocab_size", [50, 128_256])
def test_host_and_mesh_find_what_the_device_finds(
    tmp_path, find, shard_tokens, vocab_size
):
    store = make_store(tmp_path, shard_tokens, vocab_size)
    run = jax.jit(find, static_argnums=(2, 3))
    expected = run(load_index(store), queries(), 16, DEPTH)
    on_host = run(HostIndex(store), queries(), 16, DEPTH)
    mesh = make_mesh(MeshConfig(data=4))
    spread = run(load_index(store, mesh), queries(), 16, DEPTH)
    for other in (on_host, spread):
        assert expected_tokens(other) == expected_tokens(expected)


def expected_tokens(found):
    """The sorted rows of each query: a tree does not depend on their order."""
    rows = zip(np.asarray(found.length).tolist(), np.asarray(found.tokens).tolist())
    return [sorted((n, t) for n, t in zip(*row) if n) for row in rows]


def test_prompt_lookup_prefers_long_then_late_matches():
    text = [7, 8, 9, 3, 4, 7, 8, 9, 5, 8, 9, 6, 7, 8, 9]
    tokens = jnp.asarray([text + [0] * 5])
    length = jnp.asarray([len(text)])
    query = retrieval.last_tokens(tokens, length)
    found = prompt_lookup.match_text(tokens, length, query, 4, 3)
    np.testing.assert_array_equal(found.length[0], [3, 3, 2, 0])
    np.testing.assert_array_equal(
        found.tokens[0, :3], [[5, 8, 9], [3, 4, 7], [6, 7, 8]]
    )


def test_prompt_lookup_ends_where_the_text_ends():
    tokens = jnp.asarray([[5, 6, 5, 6, 9, 9]])
    length = jnp.asarray([4])
    query = retrieval.last_tokens(tokens, length)
    found = prompt_lookup.match_text(tokens, length, query, 2, 4)
    np.testing.assert_array_equal(found.tokens[0, 0], [5, 6, END, END])
    assert found.length[0, 0] == 2


def test_a_text_shorter_than_its_rows_fills_them_up():
    tokens, length = jnp.asarray([[5, 6, 5]]), jnp.asarray([3])
    query = retrieval.last_tokens(tokens, length)
    found = prompt_lookup.match_text(tokens, length, query, 8, 4)
    np.testing.assert_array_equal(found.length[0], [1, 0, 0, -1, -1, -1, -1, -1])
    np.testing.assert_array_equal(found.tokens[0, 0], [6, 5, END, END])
