"""The Transformer layer that all models share: attention and feed-forward.

Attention takes positions, a mask and, in a decoder, a read-only context of keys and
values. It is independent of causality, loops and draft trees: the caller's mask
determines which tokens attend to which.
"""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from relay_jax.base import Array, Bool, Float, Int
from relay_jax.config import ModelConfig, PositionConfig
from relay_jax.models.positions import RelativeBias, apply_rope, directional_mask

MASK_VALUE = -1e9  # a finite "minus infinity": a row without any key stays finite
# What remat saves for the backward pass: products with parameters. Attention scores and
# all elementwise operations are recomputed.
REMAT_POLICY = jax.checkpoint_policies.dots_with_no_batch_dims_saveable


class KeyValues(NamedTuple):
    """Keys and values of one layer; positions have been applied to the keys."""

    keys: Float[Array, "b k g e"]
    values: Float[Array, "b k g e"]


class KVContext(NamedTuple):
    """A block of keys that queries attend to: the past in a cache, or the new tokens.

    The past is read-only. Attention returns the new tokens' keys and values, and the
    caller decides which of them enter the cache: of a draft tree only the accepted
    branch does.
    """

    key_values: KeyValues  # [b, m, g, e] each
    positions: Int[Array, "#b m"]
    mask: Bool[Array, "#b q m"]  # whether a query may attend to a key


def dtypes(config: ModelConfig) -> dict[str, Any]:
    """Keyword arguments of a linen layer: the types of its compute and parameters."""
    names = {"dtype": config.dtype, "param_dtype": config.param_dtype}
    return {key: jnp.dtype(name) for key, name in names.items()}


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023) over a context and the new tokens."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        positions: Int[Array, "#b q"],
        mask: Bool[Array, "#b q q"],
        context: KVContext | None,
    ) -> tuple[Float[Array, "b q d"], KeyValues]:
        """The attention output, and the keys and values of the new tokens.

        Args:
          x: the new tokens.
          positions: of the new tokens.
          mask: which new tokens attend to which.
          context: earlier keys and values, which are under the same softmax.
        """
        config, position = self.config, self.config.position
        num_heads, dtype = config.num_heads, jnp.dtype(config.dtype)
        size = config.resolved_head_dim

        def project(name, heads):
            shape, has_bias = (heads, size), config.qkv_bias
            return nn.DenseGeneral(
                shape, use_bias=has_bias, name=name, **dtypes(config)
            )(x)

        query = project("query", num_heads)
        key = project("key", config.resolved_num_kv_heads)
        new = KeyValues(key, project("value", config.resolved_num_kv_heads))
        if position.scheme == "rope":
            query = apply_rope(query, positions, position)
            new = new._replace(keys=apply_rope(new.keys, positions, position))

        blocks = [KVContext(new, positions, mask)]
        if context is not None:  # two products under one softmax: no copy of the cache
            past = jax.tree.map(lambda part: part.astype(dtype), context.key_values)
            blocks.insert(0, context._replace(key_values=past))
        visible = [visible_keys(positions, block, position.window) for block in blocks]
        scale = score_scale(visible, size, position)
        bias = None
        if position.scheme == "relative_bias":
            bias = RelativeBias(num_heads, position, name="relative_bias")
        grouped = group_queries(query, config.resolved_num_kv_heads)
        scores = []
        for block, can_see in zip(blocks, visible):
            score = score_keys(grouped, block.key_values.keys, num_heads) * scale
            if bias is not None:
                score += bias(positions, block.positions)
            if position.directional_heads:
                can_see &= directional_mask(num_heads, positions, block.positions)
            scores.append(jnp.where(can_see, score, MASK_VALUE))
        mixed = mix_values(scores, [block.key_values.values for block in blocks], dtype)
        return nn.Dense(config.dim, use_bias=False, name="out", **dtypes(config))(
            mixed
        ), new


def visible_keys(
    queries: Int[Array, "#b q"], block: KVContext, window: int
) -> Bool[Array, "#b 1 q k"]:
    """Which keys each query may see, by mask and sliding window (0: no window)."""
    visible = block.mask[:, None]
    if window:
        distance = queries[:, :, None] - block.positions[:, None]
        visible &= (distance < window)[:, None]
    return visible


def score_scale(
    visible: list[Bool[Array, "#b 1 q _"]], head_dim: int, config: PositionConfig
) -> float | Float[Array, "#b 1 q 1"]:
    """The factor of the scores, 1 / sqrt(e).

    With `log_length_scaling` it is multiplied by log(number of visible keys) /
    log(`reference_length`).
    """
    scale = head_dim**-0.5
    if not config.log_length_scaling:
        return scale
    count = sum(block.sum(-1, keepdims=True) for block in visible)
    return scale * jnp.log(jnp.maximum(count, 2)) / jnp.log(config.reference_length)


def group_queries(
    query: Float[Array, "b q h e"], num_kv_heads: int
) -> Float[Array, "b g m e"]:
    """Queries by key-value head; the queries that share one are in an axis m = h q / g.

    On a CPU this halves the time of the backward pass.
    """
    batch, num, _, size = query.shape
    query = query.reshape(batch, num, num_kv_heads, -1, size)
    return query.transpose(0, 2, 3, 1, 4).reshape(batch, num_kv_heads, -1, size)


def score_keys(
    query: Float[Array, "b g m e"], keys: Float[Array, "b k g e"], num_heads: int
) -> Float[Array, "b h q k"]:
    """Products of grouped queries with keys, unscaled, in float32."""
    product = jnp.einsum("bgme,bkge->bgmk", query, keys).astype(jnp.float32)
    return product.reshape(len(query), num_heads, -1, keys.shape[1])


def mix_values(
    scores: list[Float[Array, "b h q _"]],
    values: list[Float[Array, "b _ g e"]],
    dtype: Any,
) -> Float[Array, "b q h*e"]:
    """Values averaged with one softmax over the keys of all blocks.

    The scores of the blocks are not concatenated: on a GPU, XLA would then compute them
    one by one. The softmax's sum divides the mixed values, not the weights: on a CPU
    this halves the time of the backward pass.
    """
    batch, num_heads, num, _ = scores[0].shape
    groups, size = values[0].shape[2:]
    scores = [score.reshape(batch, groups, -1, score.shape[-1]) for score in scores]
    tops = [jnp.max(score, axis=-1, keepdims=True) for score in scores]
    highest = jax.lax.stop_gradient(functools.reduce(jnp.maximum, tops))
    mixed, total = jnp.zeros(()), jnp.zeros(())
    for score, value in zip(scores, values):
        weights = jnp.exp(score - highest).astype(dtype)
        total += jnp.sum(weights, axis=-1, keepdims=True, dtype=jnp.float32)
        share = jnp.einsum("bgmk,bkge->bgme", weights, value)
        mixed += share.astype(jnp.float32)
    mixed = (mixed / total).astype(dtype).reshape(batch, num_heads, num, size)
    return mixed.transpose(0, 2, 1, 3).reshape(batch, num, -1)


ACTIVATIONS = {"gelu": jax.nn.gelu, "relu": jax.nn.relu}


class FeedForward(nn.Module):
    """Two matrices with an activation between them; SwiGLU (Shazeer 2020) has three."""

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
    """The model's normalization, computed in float32 for every compute type."""
    kind = nn.RMSNorm if config.norm == "rms" else nn.LayerNorm
    types = dtypes(config) | {"dtype": jnp.float32}
    return kind(epsilon=config.norm_epsilon, name=name, **types)


class Layer(nn.Module):
    """Pre-norm Transformer layer: attention and feed-forward, each with a residual."""

    config: ModelConfig

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b n d"],
        positions: Int[Array, "#b n"],
        mask: Bool[Array, "#b n n"],
        context: KVContext | None = None,
        *,
        train: bool = False,
    ) -> tuple[Float[Array, "b n d"], KeyValues]:
        """The layer's output, and keys and values of its tokens; see `Attention`."""
        config = self.config
        dropout = nn.Dropout(config.dropout, deterministic=not train)
        normed = make_norm(config, "attention_norm")(x)
        attention = Attention(config, name="attention")
        mixed, new = attention(normed, positions, mask, context)
        x = x + dropout(mixed)
        normed = make_norm(config, "feed_forward_norm")(x)
        x = x + dropout(FeedForward(config, name="feed_forward")(normed))
        return x, new
