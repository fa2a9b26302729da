"""How attention takes positions into account: RoPE, learned biases, one-sided heads.

    rope            queries and keys are rotated by their positions (the paper)
    relative_bias   a learned number is added to each score, by head and clipped distance

`directional_heads` and `log_length_scaling` combine with either (not in the paper; they
enable a looped model to extrapolate in length).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from relay_jax.base import Array, Bool, Float, Int
from relay_jax.config import PositionConfig


def rope_frequencies(half: int, config: PositionConfig) -> Float[Array, " half"]:
    """Radians per position for each of the `half` pairs of coordinates.

    `rope_scaling` stretches them for longer contexts: "linear" divides all of them by
    `rope_factor` (Chen et al. 2023); "llama3" (Llama Team 2024) divides the slow ones,
    keeps the fast ones and interpolates in between.
    """
    frequency = config.rope_base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    stretched = frequency / config.rope_factor
    if config.rope_scaling == "linear":
        return stretched
    if config.rope_scaling == "llama3":
        turns = config.rope_length * frequency / (2 * jnp.pi)
        slow, fast = config.rope_slow, config.rope_fast
        unscaled = jnp.clip((turns - slow) / (fast - slow), 0, 1)
        return unscaled * frequency + (1 - unscaled) * stretched
    return frequency


def apply_rope(
    x: Float[Array, "b n h e"], positions: Int[Array, "#b n"], config: PositionConfig
) -> Float[Array, "b n h e"]:
    """Rotary position embedding (Su et al. 2021) of queries or keys.

    The coordinates i and i + e/2 of each head form a pair that is rotated by its
    frequency times the position.
    """
    frequency = rope_frequencies(x.shape[-1] // 2, config)[None, None, None]
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = [left * cos - right * sin, right * cos + left * sin]
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


class RelativeBias(nn.Module):
    """Learned attention bias for each head and clipped relative distance.

    Beyond `max_distance` only the side (left or right) matters, so that every distance
    occurs in training. With `distance_slopes`, each head and side has a slope too
    (ALiBi, Press et al. 2022; here it is learned): a head can then prefer the nearest
    of several positions at any distance, up to `slope_reach`. `bias_scale` multiplies
    both.
    """

    num_heads: int
    config: PositionConfig

    @nn.compact
    def __call__(
        self, queries: Int[Array, "#b q"], keys: Int[Array, "#b k"]
    ) -> Float[Array, "#b h q k"]:
        """The bias for every query and key, given their positions."""
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


def directional_mask(
    num_heads: int, queries: Int[Array, "#b q"], keys: Int[Array, "#b k"]
) -> Bool[Array, "#b h q k"]:
    """Which keys each head may attend to, given the positions of queries and keys.

    The first half of the heads attends to the query's own position and to its left, the
    other half to its own position and to its right.
    """
    distance = keys[:, None, None, :] - queries[:, None, :, None]
    looks_left = (jnp.arange(num_heads) < num_heads // 2)[None, :, None, None]
    return jnp.where(looks_left, distance <= 0, distance >= 0)
