"""The key-value cache of the decoder: read by the forward pass, written after it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from relay_jax.base import Array, Bool, Float, Int, PyTree
from relay_jax.config import ModelConfig
from relay_jax.models.layers import KeyValues
from relay_jax.models.sharding import constrain


class Cache(NamedTuple):
    """Slot i of a row holds the token at position i; slots from `length` on are free."""

    key_values: KeyValues  # Float[Array, "l b m g e"] each
    length: Int[Array, " b"]


def make_cache(config: ModelConfig, batch_size: int, size: int) -> Cache:
    """An empty cache of `size` positions for each row."""
    shape = (
        *(config.num_layers, batch_size, size),
        *(config.resolved_num_kv_heads, config.resolved_head_dim),
    )
    empty = jnp.zeros(shape, config.dtype)
    return Cache(KeyValues(empty, empty), jnp.zeros(batch_size, jnp.int32))


def write_cache(
    cache: Cache,
    new: KeyValues,
    accepted: Bool[Array, "b q"] | None = None,
) -> Cache:
    """The cache with the accepted ones of the q new tokens appended to every row.

    Args:
      new: keys and values of the last forward pass, `[l, b, q, g, e]`.
      accepted: which of them to append, in order; by default all.
    """
    batch_size, num = new.keys.shape[1:3]
    if accepted is None:
        accepted = jnp.ones((batch_size, num), bool)
    rank = jnp.cumsum(accepted, axis=1) - 1
    # The rejected ones go to distinct slots outside the cache, where they are dropped.
    outside = cache.key_values.keys.shape[2] + jnp.arange(num)[None]
    slot = jnp.where(accepted, cache.length[:, None] + rank, outside)
    row = jnp.arange(batch_size)[:, None]

    def append(past: Float[Array, "l b m g e"], part: Float[Array, "l b q g e"]):
        return past.at[:, row, slot].set(
            part.astype(past.dtype), mode="drop", unique_indices=True
        )

    key_values = jax.tree.map(append, cache.key_values, new)
    return Cache(key_values, cache.length + accepted.sum(axis=1, dtype=jnp.int32))


def write_nodes(
    cache: Cache,
    new: KeyValues,
    nodes: Int[Array, "b s"],
    mask: Bool[Array, "b s"],
) -> Cache:
    """The decoder's `TargetModel.write_cache`: appends some nodes of a draft tree.

    Args:
      new: keys and values of the last forward pass, `[l, b, q, g, e]`.
      nodes: indices of its q tokens, in the order of the text.
      mask: which of them to append.
    """
    index = nodes[None, :, :, None, None]
    chosen = jax.tree.map(lambda x: jnp.take_along_axis(x, index, axis=2), new)
    return write_cache(cache, chosen, mask)


def constrain_cache(cache: Cache, params: PyTree) -> Cache:
    """The cache, sharded by heads like the parameters if these are on a mesh."""
    values = [constrain(x, "heads", None, like=params) for x in cache.key_values]
    return Cache(KeyValues(*values), constrain(cache.length, like=params))
