"""The decoder: every auto-regressive model, from the 3-layer CoT model to a 7B Llama.

It takes tokens with positions, a mask and a cache, and returns logits and the new
tokens' keys and values. It does not distinguish draft trees from text: a tree is a mask
and positions like any other. The cache is read-only in the forward pass; the caller
appends the accepted tokens to it (`kv_cache.write_cache`).

Layers are stacked by `nn.scan`, so that compile time does not grow with depth. For
decoding, `unstack_layers` separates them, as every step would otherwise copy each layer
out of the stack.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from relay_jax.base import AnyArray, Array, Bool, Float, Int, Key, PyTree
from relay_jax.config import ModelConfig
from relay_jax.models.embeddings import Embedding
from relay_jax.models.kv_cache import Cache
from relay_jax.models.layers import (
    REMAT_POLICY,
    KeyValues,
    KVContext,
    Layer,
    make_norm,
)
from relay_jax.models.sharding import constrain

STACK = "layers"


class Decoder(nn.Module):
    """A decoder-only Transformer; its layers are stacked by default."""

    config: ModelConfig
    is_stacked: bool = True

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "b q"],
        positions: Int[Array, "b q"] | None = None,
        mask: Bool[Array, "b q q"] | None = None,
        cache: Cache | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "b q v"], KeyValues]:
        """Next-token logits (float32) and the new tokens' keys and values, for each layer.

        Args:
          tokens: token ids.
          positions: of the tokens in the text; by default they follow the cache.
          mask: which new tokens attend to which; by default causal.
          cache: the earlier tokens, to which every new token attends; it is only read.
          train: whether dropout is on (needs the `dropout` key).
        """
        config = self.config
        batch_size, num = tokens.shape
        if positions is None:
            first = cache.length if cache else jnp.zeros(1, jnp.int32)
            positions = first[:, None] + jnp.arange(num)[None]
        if mask is None:
            mask = jnp.tril(jnp.ones((batch_size, num, num), bool))

        table = Embedding(config, name="words")()
        # Sharded along its width, the table must be gathered before it is looked up.
        whole = table if cache else constrain(table, "vocab", None)
        x = jnp.take(whole, tokens, axis=0).astype(config.dtype)
        x, new = self._layers(x, positions, mask, cache, train)
        x = make_norm(config, "norm")(x)
        if not config.tie_embeddings:
            table = Embedding(config, output=True, name="head")()
        x, table = x.astype(config.dtype), table.astype(config.dtype)
        logits = jnp.einsum("bqd,vd->bqv", x, table, preferred_element_type=jnp.float32)
        return logits, new

    def _layers(self, x, positions, mask, cache, train):
        """All layers: the last one's output, and new keys and values `[l, b, q, g, e]`."""
        config, past, see_past = self.config, None, None
        if cache is not None:
            past = cache.key_values
            see_past = past_positions(cache, len(positions), mask.shape[:2])

        def run(layer, x, past_layer):
            context = KVContext(past_layer, *see_past) if see_past else None
            x = x if see_past else constrain(x, "batch", None, None)
            return layer(x, positions, mask, context, train=train)

        if config.remat:
            run = nn.remat(run, prevent_cse=False, policy=REMAT_POLICY)
        if self.is_stacked:
            stack = nn.scan(
                run,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                length=config.num_layers,
            )
            return stack(Layer(config, name=STACK), x, past)
        new = []
        for i in range(config.num_layers):
            past_layer = jax.tree.map(lambda part, i=i: part[i], past)
            x, new_layer = run(Layer(config, name=f"{STACK}_{i}"), x, past_layer)
            new.append(new_layer)
        return x, jax.tree.map(lambda *parts: jnp.stack(parts), *new)


def past_positions(
    cache: Cache, num_rows: int, shape: tuple[int, int]
) -> tuple[Int[Array, "_ m"], Bool[Array, "b q m"]]:
    """The positions of the cache's slots, and to which of them new tokens attend.

    Args:
      cache: slot i of a row belongs to position i.
      num_rows: rows of the positions (1 if all rows of a batch have the same).
      shape: (b, q) of the new tokens.
    """
    slots = cache.key_values.keys.shape[2]
    positions = jnp.arange(slots)[None]
    is_filled = positions < cache.length[:, None]
    mask = jnp.broadcast_to(is_filled[:, None], (*shape, slots))
    return jnp.broadcast_to(positions, (num_rows, slots)), mask


def run_decoder(
    params: PyTree,
    tokens: Int[AnyArray, "b q"],
    *,
    model: ModelConfig,
    key: Key[Array, ""] | None = None,
    **inputs: Any,
) -> tuple[Float[Array, "b q v"], KeyValues]:
    """Applies the decoder to stacked or unstacked parameters.

    Args:
      key: for dropout; None turns dropout off.
      inputs: `positions`, `mask`, `cache`; see `Decoder`.
    """
    return Decoder(model, STACK in params).apply(  # type: ignore[return-value]
        {"params": params},
        tokens,
        train=key is not None,
        rngs=None if key is None else {"dropout": key},
        **inputs,
    )


def unstack_layers(params: PyTree) -> PyTree:
    """The parameters with a subtree for each layer: the faster layout for decoding.

    Donates `params`: each stacked leaf is deleted as soon as its layers are copied, so
    that at most one leaf is in memory twice.
    """
    unstacked = {name: part for name, part in params.items() if name != STACK}
    leaves, structure = jax.tree.flatten(params[STACK])
    layers = []
    for leaf in leaves:
        layers.append(jax.jit(list)(leaf))
        leaf.delete()
    for i, values in enumerate(zip(*layers)):
        unstacked[f"{STACK}_{i}"] = jax.tree.unflatten(structure, values)
    return unstacked
