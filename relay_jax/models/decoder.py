"""The decoder: everything auto-regressive, from the paper's 3-layer CoT model up.

It is told positions, mask and cache, and returns logits with the new keys and values:
it knows nothing of generation loops or draft trees. Layers are stacked by `nn.scan`, so
that compile time does not grow with depth; for decoding, `unstack_layers` takes them
apart, since every step would copy each layer out of the stack.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from relay_jax.base import AnyArray, Array, Bool, Float, Int, Key, PyTree
from relay_jax.config import ModelConfig
from relay_jax.models.kv_cache import Cache
from relay_jax.models.layers import (
    REMAT_POLICY,
    Embedding,
    KeyValues,
    KVContext,
    Layer,
    make_norm,
)
from relay_jax.models.sharding import constrain

STACK = "layers"


class Decoder(nn.Module):
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
        """Next-token logits (float32) and the new tokens' keys and values.

        Args:
          tokens: token ids.
          positions: their places in the text; by default they follow the cache.
          mask: which new tokens see which; by default causal.
          cache: what came before; every new token sees all of it. Not written here.
          train: whether dropout is on (needs the `dropout` key).
        """
        config = self.config
        batch_size, num = tokens.shape
        if positions is None:
            first = cache.length if cache else jnp.zeros(1, jnp.int32)
            positions = first[:, None] + jnp.arange(num)[None]
        if mask is None:
            mask = jnp.tril(jnp.ones((batch_size, num, num), bool))
        memory = None
        if cache is not None:
            slots = cache.key_values.keys.shape[2]
            places = jnp.arange(slots)[None]
            held = places < cache.length[:, None]
            held = jnp.broadcast_to(held[:, None], (batch_size, num, slots))
            memory = (jnp.broadcast_to(places, (len(positions), slots)), held)

        words = Embedding(config, name="words")()
        # Looked up by examples, a table that is cut along its width must be made whole.
        table = words if cache else constrain(words, "words", None)
        x = jnp.take(table, tokens, axis=0).astype(config.dtype)

        def run(layer, x, key_values):
            past = KVContext(key_values, *memory) if memory else None
            x = x if memory else constrain(x, "batch", None, None)
            return layer(x, positions, mask, past, train=train)

        if config.remat:
            run = nn.remat(run, prevent_cse=False, policy=REMAT_POLICY)
        held_values = cache.key_values if cache else None
        if self.is_stacked:
            stack = nn.scan(
                run,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                length=config.num_layers,
            )
            x, new = stack(Layer(config, name=STACK), x, held_values)
        else:
            parts = []
            for i in range(config.num_layers):
                held = jax.tree.map(lambda part, i=i: part[i], held_values)
                x, part = run(Layer(config, name=f"{STACK}_{i}"), x, held)
                parts.append(part)
            new = jax.tree.map(lambda *values: jnp.stack(values), *parts)
        x = make_norm(config, "norm")(x)
        head = (
            words if config.tie_embeddings else Embedding(config, True, name="head")()
        )
        x, head = x.astype(config.dtype), head.astype(config.dtype)
        return jnp.einsum(
            "bqd,vd->bqv", x, head, preferred_element_type=jnp.float32
        ), new


def run_decoder(
    params: PyTree,
    tokens: Int[AnyArray, "b q"],
    *,
    model: ModelConfig,
    key: Key[Array, ""] | None = None,
    **rest: Any,
) -> tuple[Float[Array, "b q v"], KeyValues]:
    """Applies the decoder; with a key it trains (dropout on). `rest`: see `Decoder`.

    Its layers may be stacked or not.
    """
    return Decoder(model, STACK in params).apply(  # type: ignore[return-value]
        {"params": params},
        tokens,
        train=key is not None,
        rngs=None if key is None else {"dropout": key},
        **rest,
    )


def unstack_layers(params: PyTree) -> PyTree:
    """The parameters with every layer by itself: what decoding is fast with.

    Donates `params`: each stacked leaf is deleted once its layers are copied, so that no
    more than one of them is held twice.
    """
    apart = {name: part for name, part in params.items() if name != STACK}
    leaves, structure = jax.tree.flatten(params[STACK])
    layers = []
    for leaf in leaves:
        layers.append(jax.jit(list)(leaf))
        leaf.delete()
    for i, values in enumerate(zip(*layers)):
        apart[f"{STACK}_{i}"] = jax.tree.unflatten(structure, values)
    return apart
