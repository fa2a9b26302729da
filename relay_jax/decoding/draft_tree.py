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
NUM_KINDS = 64  # kinds of sequences are 0..63


class DraftSequences(NamedTuple):
    """Continuations of a text that a drafter proposes, with their weights."""

    tokens: Int[Array, "b r s"]  # `END` after the last
    weight: Int[Array, "b r"]  # 0: there is no sequence
    kind: Int[Array, "b r"] | None = None  # where it is from; None: 0, unknown

    @property
    def kind_or_unknown(self) -> Int[Array, "b r"]:
        """The kind of every sequence, below `NUM_KINDS`."""
        return jnp.zeros_like(self.weight) if self.kind is None else self.kind


def concatenate_sequences(parts: Iterable[DraftSequences]) -> DraftSequences:
    """The sequences of several sources in one array."""
    known = [part._replace(kind=part.kind_or_unknown) for part in parts]
    return DraftSequences(*(jnp.concatenate(part, axis=1) for part in zip(*known)))


class Evidence(NamedTuple):
    """What a tree's nodes were drafted from: how likely they are rests on it."""

    weight: Int[Array, "b q"]  # of the sequences through each node; the root's are all
    kind: Int[Array, "b c"]  # of the heaviest sequence through each of the nodes 1..C


class DraftTree(NamedTuple):
    """C drafted tokens under the text's last token, the root, which is node 0."""

    tokens: Int[Array, "b c"]  # of the nodes 1..C
    parent: Int[Array, "b c"]  # the parent's number, which is smaller than the child's
    depth: Int[Array, "b c"]  # 1 for a child of the root
    valid: Bool[Array, "b c"]  # a row may have fewer than C nodes
    ancestors: Bool[Array, "b q q"]  # [i, j]: j is i or an ancestor of i; q = C + 1
    evidence: Evidence | None = None  # None: not drafted from weighted sequences

    def head(self, size: int) -> "DraftTree":
        """The tree of its first `size` nodes."""
        return DraftTree(
            tokens=self.tokens[:, :size],
            parent=self.parent[:, :size],
            depth=self.depth[:, :size],
            valid=self.valid[:, :size],
            ancestors=self.ancestors[:, : size + 1, : size + 1],
        )

    @property
    def depth_with_root(self) -> Int[Array, "b q"]:
        """The depth of every node, the root's, 0, first."""
        return jnp.pad(self.depth, ((0, 0), (1, 0)))

    @property
    def valid_with_root(self) -> Bool[Array, "b q"]:
        """Which nodes there are; the root, which is first, always is."""
        return jnp.pad(self.valid, ((0, 0), (1, 0)), constant_values=True)


def without_nodes(tree: DraftTree) -> DraftTree:
    """A tree of the same shapes that has its root only, which sees itself.

    Args:
      tree: a tree, or the shapes of one.
    """
    empty = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)
    itself = jnp.eye(tree.ancestors.shape[-1], dtype=bool)
    return empty._replace(ancestors=jnp.broadcast_to(itself, tree.ancestors.shape))


class _Trie(NamedTuple):
    """The trie of sorted sequences: each node is a cell of the array of their tokens.

    Sequences that share a prefix are neighbours, and the first of them owns its node:

        a b c    owns a, ab, abc        weight of ab: from its owner to the next
        a b d    owns abd               sequence that owns a node of the same depth
        a x      owns ax
    """

    owner: Int[Array, "b r s"]  # the sequence that owns the node of each prefix
    stop: Int[Array, "b r s"]  # the sequence after the last one through that node
    total: Int[Array, "b r s"]  # the weight of the sequences from owner to stop
    sequences: DraftSequences  # sorted
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
    tokens = jnp.where(valid, trie.sequences.tokens[batch, row, column], 0)
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
    evidence = _evidence(trie, batch, row, column, valid)
    return DraftTree(tokens, parent, depth, valid, _with_root(above), evidence)


def empty_tree(batch_size: int) -> DraftTree:
    """The root alone: plain decoding."""
    none = jnp.zeros((batch_size, 0), jnp.int32)
    evidence = Evidence(jnp.zeros((batch_size, 1), jnp.int32), none)
    ancestors = jnp.ones((batch_size, 1, 1), bool)
    return DraftTree(none, none, none, none.astype(bool), ancestors, evidence)


def _evidence(trie: _Trie, batch, row, column, valid) -> Evidence:
    """The evidence for the nodes at some cells of the trie."""
    weight, kind = trie.sequences.weight, trie.sequences.kind_or_unknown
    number = jnp.arange(weight.shape[1])[None, None]
    is_through = number >= row[..., None]
    is_through &= number < trie.stop[batch, row, column][..., None]
    rank = (weight * NUM_KINDS + kind)[:, None]
    heaviest = jnp.max(jnp.where(is_through, rank, 0), axis=-1) % NUM_KINDS
    total = jnp.where(valid, trie.total[batch, row, column], 0)
    return Evidence(
        jnp.concatenate([weight.sum(axis=1, keepdims=True), total], axis=1), heaviest
    )


def _make_trie(sequences: DraftSequences, pack_uint16: bool, decay: float) -> _Trie:
    """Sorts the sequences, and scores the node of each prefix at its owner."""
    batch_size, num, size = sequences.tokens.shape
    sequences = _sort_sequences(sequences, pack_uint16)
    tokens, weight = sequences.tokens, sequences.weight
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
    score = score.astype(jnp.float32) * decay**depth
    return _Trie(owner, stop, total, sequences, score)


def _sort_sequences(sequences: DraftSequences, pack_uint16: bool) -> DraftSequences:
    """The sequences in lexicographic order; those of weight 0 come first."""
    tokens = jnp.where(sequences.weight[..., None] > 0, sequences.tokens, END)
    size = tokens.shape[-1]
    if pack_uint16:  # two tokens per key
        padded = jnp.pad(tokens, ((0, 0), (0, 0), (0, size % 2)), constant_values=END)
        halves = (padded + 1).astype(jnp.uint32)
        keys = halves[..., ::2] << 16 | halves[..., 1::2]
    else:
        keys = tokens
    *columns, weight, kind = jax.lax.sort(
        (*jnp.unstack(keys, axis=-1), sequences.weight, sequences.kind_or_unknown),
        dimension=1,
        num_keys=keys.shape[-1],
    )
    keys = jnp.stack(columns, axis=-1)
    if pack_uint16:
        halves = jnp.stack([keys >> 16, keys & 0xFFFF], axis=-1).astype(jnp.int32) - 1
        keys = halves.reshape(*tokens.shape[:2], -1)[..., :size]
    return DraftSequences(keys, weight, kind)


def _with_root(above: Bool[Array, "b c c"]) -> Bool[Array, "b q q"]:
    """The ancestor matrix with the root; each node is an ancestor of itself."""
    below_root = jnp.pad(above, ((0, 0), (1, 0), (1, 0)))
    root = jnp.arange(below_root.shape[1]) == 0
    return below_root | root[None, None] | jnp.eye(len(root), dtype=bool)[None]
