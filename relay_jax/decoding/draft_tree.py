"""The draft tree: weighted rows of tokens become the C heaviest nodes of their trie.

    rows (weight)          trie (weight)             num_draft = 4
    a b c   (2)            a (5) - b (4) - c (3)     node    0     1  2  3  4
    a b d   (1)                  |       - d (1)     token   root  a  b  c  x
    a b c   (1)                  - x (1)             parent  .     0  1  2  0
    a       (1)            x (2)                     depth   0     1  2  3  1
    x       (2)

A row gives its weight to each of its prefixes, so weights never rise along a path; with
ties broken towards the shallower node, the C heaviest nodes are a tree by themselves,
and no node stands before its parent (REST, section 3.2).
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relay_jax.base import Array, Bool, Int

END = -1  # stands in a row after its last token
MAX_WEIGHT = 2**24  # of all rows times their depth: weights are counted in float32


class DraftSequences(NamedTuple):
    """Guesses at how a text goes on; a drafter makes them."""

    tokens: Int[Array, "b r s"]  # `END` after the last
    weight: Int[Array, "b r"]  # 0: no row at all


def concatenate_sequences(parts: Iterable[DraftSequences]) -> DraftSequences:
    """The rows of several sources, as those of one."""
    return DraftSequences(*(jnp.concatenate(part, axis=1) for part in zip(*parts)))


class Tree(NamedTuple):
    """C drafted tokens under the text's last token, the root, which is node 0."""

    tokens: Int[Array, "b c"]  # of the nodes 1..C
    parent: Int[Array, "b c"]  # a node's number; smaller than the child's
    depth: Int[Array, "b c"]  # 1 for a child of the root
    valid: Bool[Array, "b c"]  # a row may have fewer than C nodes
    ancestors: Bool[Array, "b q q"]  # [i, j]: j is i, or above it; q = C + 1


def make_tree(
    rows: DraftSequences, num_draft: int, narrow: bool = False, depth_decay: float = 1.0
) -> Tree:
    """The `num_draft` heaviest nodes of the trie of all rows; shapes are static.

    Sorted rows that share a prefix stand together, and the first of them owns its node:

        a b c    owns a, ab, abc        weight of ab: from its owner to the next
        a b d    owns abd               row that owns a node as deep
        a x      owns ax

    Args:
      rows: the sum of their weights must stay below `MAX_WEIGHT` / (depth + 1).
      num_draft: C.
      narrow: whether all tokens are below 2^16 - 1; sorting is then faster.
      depth_decay: the share of a node's weight that counts, to the power of its depth.
    """
    batch_size, num, size = rows.tokens.shape
    tokens, weight = _sort_rows(rows, narrow)
    differs = jnp.pad(
        tokens[:, 1:] != tokens[:, :-1],
        ((0, 0), (1, 0), (0, 0)),
        constant_values=True,
    )
    so_far = np.tril(np.ones((size, size), bool))[None, None]
    owns = jnp.any(differs[:, :, None] & so_far, axis=-1)  # [b, r, s]

    row = jnp.arange(num)[None, :, None]
    owner = jax.lax.cummax(jnp.where(owns, row, 0), axis=1)
    following = jax.lax.cummin(jnp.where(owns, row, num), axis=1, reverse=True)
    stop = jnp.pad(following[:, 1:], ((0, 0), (0, 1), (0, 0)), constant_values=num)
    # Whole numbers, exact in float32, which has the faster top-k. Fading is rounded, but
    # never lifts a node above its parent; of equals top-k takes the parent first.
    before = jnp.pad(jnp.cumsum(weight, axis=1), ((0, 0), (1, 0)))
    pick = jnp.arange(batch_size)[:, None, None]
    total = before[pick, stop] - before[:, :num, None]
    is_node = owns & (tokens != END)
    depth = jnp.arange(size)[None, None]
    score = jnp.where(is_node, total * (size + 1) + (size - depth), 0)
    score = score.astype(jnp.float32) * depth_decay**depth
    score, place = jax.lax.top_k(score.reshape(batch_size, -1), num_draft)
    valid = score > 0

    pick, own, at = pick[..., 0], place // size, place % size
    chosen = jnp.where(valid, tokens[pick, own, at], 0)
    # The node of a shorter prefix stands at that prefix's owner.
    step = jnp.arange(size)[None, None]
    path = owner[pick, own] * size + step  # [b, c, s]
    is_above = step < jnp.where(valid, at, 0)[..., None]
    path = jnp.where(is_above, path, -1)[..., None]
    node = jnp.where(valid, place, -2)[:, None, None]
    above = jnp.any(path == node, axis=2)  # [b, c, c]
    level = jnp.where(valid, at + 1, 1)
    # Nodes above stand before: the last of them is the parent; the root where none is.
    number = jnp.arange(1, num_draft + 1)[None, None]
    parent = jnp.max(jnp.where(above, number, 0), axis=-1)
    return Tree(chosen, parent, level, valid, _with_root(above))


def _sort_rows(rows: DraftSequences, narrow: bool):
    """Rows in lexicographic order, those without weight first and without tokens."""
    tokens = jnp.where(rows.weight[..., None] > 0, rows.tokens, END)
    size = tokens.shape[-1]
    if narrow:  # two tokens a key
        padded = jnp.pad(tokens, ((0, 0), (0, 0), (0, size % 2)), constant_values=END)
        words = (padded + 1).astype(jnp.uint32)
        keys = words[..., ::2] << 16 | words[..., 1::2]
    else:
        keys = tokens
    *columns, weight = jax.lax.sort(
        (*jnp.unstack(keys, axis=-1), rows.weight),
        dimension=1,
        num_keys=keys.shape[-1],
    )
    keys = jnp.stack(columns, axis=-1)
    if narrow:
        words = jnp.stack([keys >> 16, keys & 0xFFFF], axis=-1).astype(jnp.int32) - 1
        keys = words.reshape(*tokens.shape[:2], -1)[..., :size]
    return keys, weight


def empty_tree(batch_size: int) -> Tree:
    """No draft: plain decoding."""
    none = jnp.zeros((batch_size, 0), jnp.int32)
    ancestors = jnp.ones((batch_size, 1, 1), bool)
    return Tree(none, none, none, none.astype(bool), ancestors)


def _with_root(above: Bool[Array, "b c c"]) -> Bool[Array, "b q q"]:
    """The root is above every node, and each is taken for its own ancestor."""
    below_root = jnp.pad(above, ((0, 0), (1, 0), (1, 0)))
    root = jnp.arange(below_root.shape[1]) == 0
    return below_root | root[None, None] | jnp.eye(len(root), dtype=bool)[None]
