"""The draft tree against a dictionary of prefixes, and drawn."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.decoding.draft_tree import (
    END,
    NUM_KINDS,
    DraftSequences,
    empty_tree,
    make_tree,
    without_nodes,
)

BUILD = jax.jit(make_tree, static_argnums=(1, 2, 3))


def rows_of(texts, weights):
    size = max(map(len, texts))
    tokens = [[*text, *[END] * (size - len(text))] for text in texts]
    return DraftSequences(
        jnp.array([tokens], jnp.int32), jnp.array([weights], jnp.int32)
    )


def paths(tree, row=0):
    """Node number -> the tokens from the root to it."""
    found = {0: ()}
    for i in range(tree.tokens.shape[1]):
        if tree.valid[row, i]:
            above = found[int(tree.parent[row, i])]
            found[i + 1] = (*above, int(tree.tokens[row, i]))
    return found


@pytest.mark.parametrize("has_unused", [True, False])
def test_the_drawn_tree(has_unused):
    """With and without a sequence of weight 0, which is sorted first."""
    a, b, c, d, x = range(1, 6)
    texts = [(a, b, c), (a, b, d), (a, b, c), (a,), (x,), (a, x)]
    size = 5 + has_unused
    tree = BUILD(rows_of(texts[:size], [2, 1, 1, 1, 2, 0][:size]), 4)
    assert paths(tree) == {0: (), 1: (a,), 2: (a, b), 3: (a, b, c), 4: (x,)}
    np.testing.assert_array_equal(tree.depth[0], [1, 2, 3, 1])
    np.testing.assert_array_equal(
        tree.ancestors[0].astype(int),
        [
            [1, 0, 0, 0, 0],
            [1, 1, 0, 0, 0],
            [1, 1, 1, 0, 0],
            [1, 1, 1, 1, 0],
            [1, 0, 0, 0, 1],
        ],
    )


@pytest.mark.parametrize("pack_uint16", [False, True])
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("depth_decay", [1.0, 0.75])
def test_the_heaviest_prefixes_are_chosen(pack_uint16, seed, depth_decay):
    rng = np.random.default_rng(seed)
    batch_size, num, size, num_draft = 8, 12, 5, 15
    lightest = seed % 2  # 0: some sequences are not there
    top = 2**16 - 2 if pack_uint16 else 130_000  # the largest token id
    tokens = rng.integers(top - 3, top + 1, (batch_size, num, size))
    length = rng.integers(0, size + 1, (batch_size, num, 1))
    tokens = np.where(np.arange(size) < length, tokens, END)
    weight = rng.integers(lightest, 4, (batch_size, num))
    kind = rng.integers(0, NUM_KINDS, (batch_size, num))
    rows = DraftSequences(*(jnp.asarray(x, jnp.int32) for x in (tokens, weight, kind)))
    tree = BUILD(rows, num_draft, pack_uint16, depth_decay)
    for b in range(batch_size):
        heavy = collections.Counter()
        heaviest = collections.defaultdict(lambda: (0, 0))  # weight and kind
        for row, value, source in zip(
            tokens[b].tolist(), weight[b].tolist(), kind[b].tolist()
        ):
            sequence = tuple(token for token in row if token != END)
            for end in range(1, len(sequence) + 1):
                heavy[sequence[:end]] += value
                heaviest[sequence[:end]] = max(
                    heaviest[sequence[:end]], (value, source)
                )

        rank = {  # by weight; of equals the shallower first
            path: (weight + 1 - len(path) / (size + 1)) * depth_decay ** len(path)
            for path, weight in heavy.items()
            if weight
        }
        ranked = sorted(rank.values(), reverse=True)
        tree_paths = paths(tree, b)
        assert len(set(tree_paths.values())) == len(tree_paths)  # no path twice
        chosen = sorted((rank[p] for p in tree_paths.values() if p), reverse=True)
        assert chosen == ranked[:num_draft]
        for node, path in tree_paths.items():
            if node:
                assert tree.parent[b, node - 1] < node
                assert tree.depth[b, node - 1] == len(path)
                assert tree.evidence.weight[b, node] == heavy[path]
                assert tree.evidence.kind[b, node - 1] == heaviest[path][1]
            above = {n for n, p in tree_paths.items() if p == path[: len(p)]}
            assert set(np.flatnonzero(tree.ancestors[b, node])) == above

        unused = np.flatnonzero(~np.asarray(tree.valid[b]))
        assert not np.any(tree.tokens[b, unused]) and np.all(tree.depth[b, unused] == 1)
        assert not np.any(tree.evidence.weight[b, 1 + unused])
    np.testing.assert_array_equal(tree.evidence.weight[:, 0], weight.sum(axis=1))


def test_the_head_of_a_tree_is_the_smaller_tree():
    a, b, c, d, x = range(1, 6)
    texts = [(a, b, c), (a, b, d), (a,), (x, b)]
    sequences = rows_of(texts, [2, 1, 1, 3])
    for size in range(1, 7):
        head, small = BUILD(sequences, 7).head(size), BUILD(sequences, size)
        assert head.evidence is None
        for name in set(head._fields) - {"evidence"}:
            values = getattr(head, name), getattr(small, name)
            np.testing.assert_array_equal(*values, err_msg=name, strict=True)
        one = [[0, *small.depth[0]], [True, *small.valid[0]]]
        np.testing.assert_array_equal(head.depth_with_root[0], one[0])
        np.testing.assert_array_equal(head.valid_with_root[0], one[1])
    assert BUILD(sequences, 7).head(0).ancestors.tolist() == [[[True]]]


def test_a_tree_without_nodes_sees_itself_alone():
    tree = BUILD(rows_of([(1, 2), (3,)], [2, 1]), 3)
    none = without_nodes(tree)
    assert jax.tree.map(jnp.shape, none) == jax.tree.map(jnp.shape, tree)
    assert not none.valid.any() and not none.depth.any() and not none.tokens.any()
    np.testing.assert_array_equal(none.ancestors[0], np.eye(4, dtype=bool))


def test_of_equal_weights_the_nearer_token_is_taken_with_depth_decay():
    tree = BUILD(rows_of([(1, 2, 3), (4,)], [10, 8]), 2, False, 0.7)
    assert set(paths(tree).values()) == {(), (1,), (4,)}


def test_weights_are_counted_exactly():
    """One more in ten thousand decides, which sums in float32 of shares would lose."""
    texts = [(1,)] * 100 + [(2,)] * 101
    tree = BUILD(rows_of(texts, [10_000] * 201), 1)
    assert tree.tokens[0, 0] == 2


def test_without_rows_there_are_no_nodes():
    tree = BUILD(rows_of([(1, 2)], [0]), 2)
    assert not tree.valid.any()
    assert not tree.evidence.weight.any() and not tree.tokens.any()
    assert tree.depth.tolist() == [[1, 1]] and not tree.parent.any()
    assert tree.ancestors[0].tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]
    empty = empty_tree(3)
    assert empty.ancestors.shape == (3, 1, 1) and empty.ancestors.all()
    assert empty.tokens.shape == empty.valid.shape == (3, 0)
    assert empty.evidence.weight.tolist() == [[0]] * 3
