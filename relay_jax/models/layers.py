"""The layers that all models share: embedding, attention, Transformer layer.

Attention is given positions, a mask and, in a decoder, a read-only cache. It knows
nothing of causality, loops or trees: the callers say who sees whom.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from relay_jax.base import Array, Bool, Float, Int
from relay_jax.config import ModelConfig, PositionConfig
from relay_jax.vocabulary import FIRST_NUMBER

MASK_VALUE = -1e9  # a finite "minus infinity": a row without any key stays finite
# What is kept for the backward pass under remat: what parameters were multiplied with.
# Attention's scores and all that is element by element are computed again.
REMAT_POLICY = jax.checkpoint_policies.dots_with_no_batch_dims_saveable


class KeyValues(NamedTuple):
    """Keys and values of one layer, after positions have been applied to the keys."""

    keys: Float[Array, "b k g e"]
    values: Float[Array, "b k g e"]


class KVContext(NamedTuple):
    """What was read before: keys and values, where they stand, who may see them."""

    key_values: KeyValues  # [b, m, g, e] each
    positions: Int[Array, "#b m"]
    mask: Bool[Array, "b q m"]


def frequencies(half: int, config: PositionConfig) -> Float[Array, " half"]:
    """Radians that each pair of RoPE turns from one position to the next."""
    frequency = config.rope_base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    stretched = frequency / config.rope_factor
    if config.rope_scaling == "linear":
        return stretched
    if config.rope_scaling == "llama3":
        turns = config.rope_length * frequency / (2 * jnp.pi)
        slow, fast = config.rope_slow, config.rope_fast
        kept = jnp.clip((turns - slow) / (fast - slow), 0, 1)
        return kept * frequency + (1 - kept) * stretched
    return frequency


def rotate(
    x: Float[Array, "b n h e"], positions: Int[Array, "#b n"], config: PositionConfig
) -> Float[Array, "b n h e"]:
    """Rotary position embedding (Su et al. 2021): pairs (i, i + e/2) turn together."""
    frequency = frequencies(x.shape[-1] // 2, config)[None, None, None]
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = [left * cos - right * sin, right * cos + left * sin]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def dtypes(config: ModelConfig) -> dict[str, Any]:
    """Arguments of a linen layer: the types of its compute and its parameters."""
    names = {"dtype": config.dtype, "param_dtype": config.param_dtype}
    return {key: jnp.dtype(name) for key, name in names.items()}


class RelativeBias(nn.Module):
    """A learnt bias for each head and clipped distance; beyond the clip, only the side
    (left or right) is known, so that no distance is ever new.

    With `distance_slopes`, each head and side also has a learnt slope (ALiBi, Press et
    al. 2022, whose slopes are fixed): a head can then prefer the nearest of several
    places at any distance, up to `slope_reach`. `bias_scale` multiplies both.
    """

    num_heads: int
    config: PositionConfig

    @nn.compact
    def __call__(
        self, queries: Int[Array, "#b q"], keys: Int[Array, "#b k"]
    ) -> Float[Array, "#b h q k"]:
        clip = self.config.max_distance
        table = self.param(
            "table", nn.initializers.zeros_init(), (2 * clip + 1, self.num_heads)
        )
        distance = keys[:, None, :] - queries[:, :, None]
        index = jnp.clip(distance, -clip, clip) + clip
        # A one-hot product: its gradient is a matrix product, not a slow scatter.
        one_hot = jax.nn.one_hot(index, 2 * clip + 1, dtype=table.dtype)
        bias = jnp.einsum("bqkc,ch->bhqk", one_hot, table * self.config.bias_scale)
        if self.config.distance_slopes:
            shape = (2, self.num_heads)
            slopes = self.param("slopes", nn.initializers.zeros_init(), shape)
            slopes *= self.config.bias_scale
            if reach := self.config.slope_reach:
                distance = jnp.clip(distance, -reach, reach)
            sides = jnp.stack([jnp.maximum(-distance, 0), jnp.maximum(distance, 0)])
            bias -= jnp.einsum("sbqk,sh->bhqk", sides.astype(table.dtype), slopes)
        return bias


def directions(
    num_heads: int, queries: Int[Array, "#b q"], keys: Int[Array, "#b k"]
) -> Bool[Array, "#b h q k"]:
    """The first half of the heads sees only its own place and left of it, the other
    half its own place and right of it."""
    distance = keys[:, None, None, :] - queries[:, None, :, None]
    looks_left = (jnp.arange(num_heads) < num_heads // 2)[None, :, None, None]
    return jnp.where(looks_left, distance <= 0, distance >= 0)


class Attention(nn.Module):
    """Grouped-query attention under one softmax over the memory and the new tokens."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        positions: Int[Array, "#b q"],
        mask: Bool[Array, "#b q q"],
        memory: KVContext | None,
    ) -> tuple[Float[Array, "b q d"], KeyValues]:
        config, place = self.config, self.config.position
        groups, size = config.resolved_num_kv_heads, config.resolved_head_dim
        types, dtype = dtypes(config), jnp.dtype(config.dtype)

        def project(name, heads):
            shape, has_bias = (heads, size), config.qkv_bias
            return nn.DenseGeneral(shape, use_bias=has_bias, name=name, **types)(x)

        query = project("query", config.num_heads)
        new = KeyValues(project("key", groups), project("value", groups))
        if place.scheme == "rope":
            query = rotate(query, positions, place)
            new = new._replace(keys=rotate(new.keys, positions, place))
        parts = [(new, positions, mask)]
        if memory is not None:  # two products under one softmax: no copy of the cache
            past = jax.tree.map(lambda part: part.astype(dtype), memory.key_values)
            parts.insert(0, (past, memory.positions, memory.mask))
        visible = [
            self._visible(positions, key_positions, seen)
            for _, key_positions, seen in parts
        ]
        count = sum(part.sum(-1, keepdims=True) for part in visible)
        scale = size**-0.5
        if place.log_length_scaling:
            seen = jnp.maximum(count, 2)
            scale = scale * jnp.log(seen) / jnp.log(place.reference_length)
        bias = None
        if place.scheme == "relative_bias":
            bias = RelativeBias(config.num_heads, place, name="relative_bias")

        # The queries of the heads that share keys stand in one axis m, and the sum of
        # the softmax divides only what has been mixed: on a CPU each of the two halves
        # the time of the backward pass. The parts' scores stay apart: joined, XLA would
        # compute them one by one on a GPU.
        batch, num = query.shape[:2]
        query = query.reshape(batch, num, groups, -1, size).transpose(0, 2, 3, 1, 4)
        query = query.reshape(batch, groups, -1, size)
        scores = []
        for (part, key_positions, _), can_see in zip(parts, visible):
            product = jnp.einsum("bgme,bkge->bgmk", query, part.keys)
            score = product.astype(jnp.float32)
            score = score.reshape(batch, config.num_heads, num, -1) * scale
            if bias is not None:
                score += bias(positions, key_positions)
            if place.directional_heads:
                can_see &= directions(config.num_heads, positions, key_positions)
            scores.append(jnp.where(can_see, score, MASK_VALUE).reshape(product.shape))
        tops = [jnp.max(score, axis=-1, keepdims=True) for score in scores]
        highest = jax.lax.stop_gradient(functools.reduce(jnp.maximum, tops))

        mixed, total = jnp.zeros(()), jnp.zeros(())
        for (part, _, _), score in zip(parts, scores):
            weights = jnp.exp(score - highest).astype(dtype)
            total += jnp.sum(weights, axis=-1, keepdims=True, dtype=jnp.float32)
            share = jnp.einsum("bgmk,bkge->bgme", weights, part.values)
            mixed += share.astype(jnp.float32)
        mixed = (mixed / total).astype(dtype)
        mixed = mixed.reshape(batch, config.num_heads, num, size)
        mixed = mixed.transpose(0, 2, 1, 3).reshape(batch, num, -1)
        return nn.Dense(config.dim, use_bias=False, name="out", **types)(mixed), new

    def _visible(self, queries, keys, seen) -> Bool[Array, "b 1 q k"]:
        """Which keys each query may see, by mask and window."""
        visible = seen[:, None]
        if self.config.position.window:
            distance = queries[:, :, None] - keys[:, None]
            visible &= (distance < self.config.position.window)[:, None]
        return visible


ACTIVATIONS = {"gelu": jax.nn.gelu, "relu": jax.nn.relu}


class FeedForward(nn.Module):
    config: ModelConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        config = self.config

        def dense(name, size):
            return nn.Dense(size, use_bias=False, name=name, **dtypes(config))

        up = dense("up", config.mlp_dim)(x)
        if config.activation == "swiglu":
            hidden = jax.nn.silu(dense("gate", config.mlp_dim)(x)) * up
        else:
            hidden = ACTIVATIONS[config.activation](up)
        return dense("down", config.dim)(hidden)


def make_norm(config: ModelConfig, name: str) -> nn.Module:
    """Normalisation in float32 whatever the compute type."""
    kind = nn.RMSNorm if config.norm == "rms" else nn.LayerNorm
    types = dtypes(config) | {"dtype": jnp.float32}
    return kind(epsilon=config.norm_epsilon, name=name, **types)


class Layer(nn.Module):
    """Pre-norm Transformer layer: attention, feed-forward, each added to its input."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        positions: Int[Array, "#b n"],
        mask: Bool[Array, "#b n n"],
        memory: KVContext | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "b n d"], KeyValues]:
        config = self.config
        drop = nn.Dropout(config.dropout, deterministic=not train)
        normed = make_norm(config, "attention_norm")(x)
        mixed, new = Attention(config, name="attention")(
            normed, positions, mask, memory
        )
        x = x + drop(mixed)
        normed = make_norm(config, "feed_forward_norm")(x)
        x = x + drop(FeedForward(config, name="feed_forward")(normed))
        return x, new


class Embedding(nn.Module):
    """One vector a word, as a table, for reading words or (`output`) for saying them.

    How a number gets its vector is `config.number_code`:

        token     it has one of its own
        digits    the sum of the vectors of its units, tens and hundreds
        ordinal   read as a learnt map of waves in its value, so that numbers nearby look
                  alike and an order can be seen; said by digits

    By digits or waves, a number never met in training has a meaning all the same.
    """

    config: ModelConfig
    output: bool = False

    @nn.compact
    def __call__(self) -> Float[Array, "v d"]:
        config = self.config
        scale = config.dim**-0.5 if self.output else 1.0
        init = nn.initializers.normal(scale)
        dtype = jnp.dtype(config.param_dtype)
        if config.number_code == "token":
            return self.param("words", init, (config.vocab_size, config.dim), dtype)
        symbols = self.param("words", init, (FIRST_NUMBER, config.dim), dtype)
        if config.number_code == "ordinal" and not self.output:
            waves = _waves(config.num_numbers)
            init = nn.initializers.normal((2 / waves.shape[1]) ** 0.5)
            shape = (waves.shape[1], config.dim)
            numbers = waves @ self.param("waves", init, shape, dtype)
            return jnp.concatenate([symbols, numbers.astype(dtype)])
        places = len(str(config.num_numbers - 1))
        digits = self.param("digits", init, (places, 10, config.dim), dtype)
        number = jnp.arange(config.num_numbers)
        numbers = sum(digits[i, number // 10**i % 10] for i in range(places))
        return jnp.concatenate([symbols, numbers])


NUM_WAVES = 16


def _waves(num_numbers: int) -> Float[Array, "v w"]:
    """Sines and cosines of every number, of wavelengths from 4 to 4 `num_numbers`."""
    wavelength = jnp.geomspace(4.0, 4.0 * num_numbers, NUM_WAVES)
    angle = 2 * jnp.pi * jnp.arange(num_numbers)[:, None] / wavelength[None]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)
