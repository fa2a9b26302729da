"""The key-value cache of the decoder: read by the forward pass, written after it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from relay_jax.base import Array, Bool, Float, Int
from relay_jax.config import ModelConfig
from relay_jax.models.layers import KeyValues


class Cache(NamedTuple):
    """Slot i of a row holds the token at position i; slots from `length` on are free."""

    key_values: KeyValues  # Float[Array, "l b m g e"] each
    length: Int[Array, " b"]


def make_cache(config: ModelConfig, batch_size: int, size: int) -> Cache:
    """An empty cache of `size` positions a row."""
    shape = (
        *(config.num_layers, batch_size, size),
        *(config.resolved_num_kv_heads, config.resolved_head_dim),
    )
    empty = jnp.zeros(shape, config.dtype)
    return Cache(KeyValues(empty, empty), jnp.zeros(batch_size, jnp.int32))


def write_cache(
    cache: Cache,
    new: KeyValues,
    kept: Bool[Array, "b q"] | None = None,
) -> Cache:
    """Appends the kept ones of `q` new positions to every row; the others are dropped.

    Args:
      new: keys and values of the last forward pass, `[l, b, q, g, e]`.
      kept: which of them to keep, in order; by default all.
    """
    batch_size, num = new.keys.shape[1:3]
    if kept is None:
        kept = jnp.ones((batch_size, num), bool)
    order = jnp.cumsum(kept, axis=1) - 1
    # Places outside the cache, all different, for what is dropped.
    outside = cache.key_values.keys.shape[2] + jnp.arange(num)[None]
    slot = jnp.where(kept, cache.length[:, None] + order, outside)
    row = jnp.arange(batch_size)[:, None]

    def put(held: Float[Array, "l b m g e"], part: Float[Array, "l b q g e"]):
        return held.at[:, row, slot].set(
            part.astype(held.dtype), mode="drop", unique_indices=True
        )

    key_values = jax.tree.map(put, cache.key_values, new)
    return Cache(key_values, cache.length + kept.sum(axis=1, dtype=jnp.int32))
