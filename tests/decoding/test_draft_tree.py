"""The draft tree against a dictionary of prefixes, and drawn."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.decoding.draft_tree import END, DraftSequences, empty_tree, make_tree

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


def test_the_drawn_tree():
    a, b, c, d, x = range(1, 6)
    texts = [(a, b, c), (a, b, d), (a, b, c), (a,), (x,), (a, x)]
    tree = BUILD(rows_of(texts, [2, 1, 1, 1, 2, 0]), 4)
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
    top = 2**16 - 2 if pack_uint16 else 130_000  # the largest token id
    tokens = rng.integers(top - 3, top + 1, (batch_size, num, size))
    length = rng.integers(0, size + 1, (batch_size, num, 1))
    tokens = np.where(np.arange(size) < length, tokens, END)
    weight = rng.integers(0, 4, (batch_size, num))
    rows = DraftSequences(
        jnp.asarray(tokens, jnp.int32), jnp.asarray(weight, jnp.int32)
    )
    tree = BUILD(rows, num_draft, pack_uint16, depth_decay)
    for b in range(batch_size):
        heavy = collections.Counter()
        for row, value in zip(tokens[b].tolist(), weight[b].tolist()):
            sequence = tuple(token for token in row if token != END)
            for end in range(1, len(sequence) + 1):
                heavy[sequence[:end]] += value

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
            above = {n for n, p in tree_paths.items() if p == path[: len(p)]}
            assert set(np.flatnonzero(tree.ancestors[b, node])) == above


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
    assert empty_tree(3).ancestors.shape == (3, 1, 1)
