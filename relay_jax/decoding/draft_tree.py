"""The draft tree: weighted token sequences become the C heaviest nodes of their trie.

    sequence (weight)      trie (weight)             num_draft = 4
    a b c    (2)           a (5) - b (4) - c (3)     node    0     1  2  3  4
    a b d    (1)                 |       - d (1)     token   root  a  b  c  x
    a b c    (1)                 - x (1)             parent  .     0  1  2  0
    a        (1)           x (2)                     depth   0     1  2  3  1
    x        (2)

A sequence adds its weight to each of its prefixes, so weights never rise along a path;
with ties broken towards the shallower node, the C heaviest nodes form a tree, and every
node comes after its parent (REST, section 3).
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relay_jax.base import Array, Bool, Float, Int

END = -1  # pads a sequence after its last token
MAX_WEIGHT = 2**24  # of the sum of weights times depth: float32 is exact up to here


class DraftSequences(NamedTuple):
    """Continuations of a text that a drafter proposes, with their weights."""

    tokens: Int[Array, "b r s"]  # `END` after the last
    weight: Int[Array, "b r"]  # 0: there is no sequence


def concatenate_sequences(parts: Iterable[DraftSequences]) -> DraftSequences:
    """The sequences of several sources in one array."""
    return DraftSequences(*(jnp.concatenate(part, axis=1) for part in zip(*parts)))


class DraftTree(NamedTuple):
    """C drafted tokens under the text's last token, the root, which is node 0."""

    tokens: Int[Array, "b c"]  # of the nodes 1..C
    parent: Int[Array, "b c"]  # the parent's number, which is smaller than the child's
    depth: Int[Array, "b c"]  # 1 for a child of the root
    valid: Bool[Array, "b c"]  # a row may have fewer than C nodes
    ancestors: Bool[Array, "b q q"]  # [i, j]: j is i or an ancestor of i; q = C + 1

    @property
    def depth_with_root(self) -> Int[Array, "b q"]:
        """The depth of every node, the root's, 0, first."""
        return jnp.pad(self.depth, ((0, 0), (1, 0)))

    @property
    def valid_with_root(self) -> Bool[Array, "b q"]:
        """Which nodes there are; the root, which is first, always is."""
        return jnp.pad(self.valid, ((0, 0), (1, 0)), constant_values=True)


class _Trie(NamedTuple):
    """The trie of sorted sequences: each node is a cell of the array of their tokens.

    Sequences that share a prefix are neighbours, and the first of them owns its node:

        a b c    owns a, ab, abc        weight of ab: from its owner to the next
        a b d    owns abd               sequence that owns a node of the same depth
        a x      owns ax
    """

    tokens: Int[Array, "b r s"]
    owner: Int[Array, "b r s"]  # the sequence that owns the node of each prefix
    score: Float[Array, "b r s"]  # of a node, at its owner; 0 elsewhere


def make_tree(
    sequences: DraftSequences,
    num_draft: int,
    pack_uint16: bool = False,
    depth_decay: float = 1.0,
) -> DraftTree:
    """The `num_draft` heaviest nodes of the trie of all sequences; shapes are static.

    Args:
      sequences: the sum of their weights must stay below `MAX_WEIGHT` / (depth + 1).
      num_draft: C.
      pack_uint16: whether all tokens are below 2^16 - 1, so that two of them fit into
        one sort key; sorting is then faster.
      depth_decay: the factor by which a node's weight falls with each level of depth.
    """
    batch_size, _, size = sequences.tokens.shape
    trie = _make_trie(sequences, pack_uint16, depth_decay)
    score, cell = jax.lax.top_k(trie.score.reshape(batch_size, -1), num_draft)
    valid = score > 0
    row, column = cell // size, cell % size
    batch = jnp.arange(batch_size)[:, None]
    tokens = jnp.where(valid, trie.tokens[batch, row, column], 0)
    # The node of a shorter prefix is the cell of that prefix's owner.
    step = jnp.arange(size)[None, None]
    path = trie.owner[batch, row] * size + step  # [b, c, s]
    is_above = step < jnp.where(valid, column, 0)[..., None]
    path = jnp.where(is_above, path, -1)[..., None]
    node = jnp.where(valid, cell, -2)[:, None, None]
    above = jnp.any(path == node, axis=2)  # [b, c, c]
    # Ancestors come first: the last of them is the parent; the root if there is none.
    number = jnp.arange(1, num_draft + 1)[None, None]
    parent = jnp.max(jnp.where(above, number, 0), axis=-1)
    depth = jnp.where(valid, column + 1, 1)
    return DraftTree(tokens, parent, depth, valid, _with_root(above))


def empty_tree(batch_size: int) -> DraftTree:
    """The root alone: plain decoding."""
    none = jnp.zeros((batch_size, 0), jnp.int32)
    ancestors = jnp.ones((batch_size, 1, 1), bool)
    return DraftTree(none, none, none, none.astype(bool), ancestors)


def _make_trie(sequences: DraftSequences, pack_uint16: bool, decay: float) -> _Trie:
    """Sorts the sequences, and scores the node of each prefix at its owner."""
    batch_size, num, size = sequences.tokens.shape
    tokens, weight = _sort_sequences(sequences, pack_uint16)
    differs = jnp.pad(
        tokens[:, 1:] != tokens[:, :-1],
        ((0, 0), (1, 0), (0, 0)),
        constant_values=True,
    )
    prefix = np.tril(np.ones((size, size), bool))[None, None]
    owns = jnp.any(differs[:, :, None] & prefix, axis=-1)  # [b, r, s]

    row = jnp.arange(num)[None, :, None]
    owner = jax.lax.cummax(jnp.where(owns, row, 0), axis=1)
    following = jax.lax.cummin(jnp.where(owns, row, num), axis=1, reverse=True)
    stop = jnp.pad(following[:, 1:], ((0, 0), (0, 1), (0, 0)), constant_values=num)
    before = jnp.pad(jnp.cumsum(weight, axis=1), ((0, 0), (1, 0)))
    batch = jnp.arange(batch_size)[:, None, None]
    total = before[batch, stop] - before[:, :num, None]
    # Integers, exact in float32, for which top-k is faster. The decay rounds, but never
    # ranks a node above its parent: of equal scores, top-k takes the parent's first.
    depth = jnp.arange(size)[None, None]
    is_node = owns & (tokens != END)
    score = jnp.where(is_node, total * (size + 1) + (size - depth), 0)
    return _Trie(tokens, owner, score.astype(jnp.float32) * decay**depth)


def _sort_sequences(sequences: DraftSequences, pack_uint16: bool):
    """Tokens and weights in lexicographic order; sequences of weight 0 come first."""
    tokens = jnp.where(sequences.weight[..., None] > 0, sequences.tokens, END)
    size = tokens.shape[-1]
    if pack_uint16:  # two tokens per key
        padded = jnp.pad(tokens, ((0, 0), (0, 0), (0, size % 2)), constant_values=END)
        halves = (padded + 1).astype(jnp.uint32)
        keys = halves[..., ::2] << 16 | halves[..., 1::2]
    else:
        keys = tokens
    *columns, weight = jax.lax.sort(
        (*jnp.unstack(keys, axis=-1), sequences.weight),
        dimension=1,
        num_keys=keys.shape[-1],
    )
    keys = jnp.stack(columns, axis=-1)
    if pack_uint16:
        halves = jnp.stack([keys >> 16, keys & 0xFFFF], axis=-1).astype(jnp.int32) - 1
        keys = halves.reshape(*tokens.shape[:2], -1)[..., :size]
    return keys, weight


def _with_root(above: Bool[Array, "b c c"]) -> Bool[Array, "b q q"]:
    """The ancestor matrix with the root; each node is an ancestor of itself."""
    below_root = jnp.pad(above, ((0, 0), (1, 0), (1, 0)))
    root = jnp.arange(below_root.shape[1]) == 0
    return below_root | root[None, None] | jnp.eye(len(root), dtype=bool)[None]
