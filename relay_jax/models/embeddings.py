"""Token embeddings: tables that are looked up for the input or score the output."""

import flax.linen as nn
import jax.numpy as jnp

from relay_jax.base import Array, Float
from relay_jax.config import ModelConfig
from relay_jax.vocabulary import FIRST_NUMBER

NUM_WAVES = 16


class Embedding(nn.Module):
    """A table with one vector per token; with `output=True`, a table of output weights.

    `config.number_code` determines the vectors of the numbers (tokens from
    `FIRST_NUMBER` on); all other tokens have vectors of their own:

        token     every number has a vector of its own
        digits    the sum of the vectors of its units, tens and hundreds
        waves     a learned map of sines and cosines of its value, so that nearby numbers
                  look alike, their order is visible, and adding a constant is a rotation
        ordinal   on the input as `waves`, on the output as `digits`

    With all but `token`, numbers that never occurred in training have useful vectors.
    """

    config: ModelConfig
    output: bool = False

    @nn.compact
    def __call__(self) -> Float[Array, "v d"]:
        """The whole table."""
        config = self.config
        scale = config.dim**-0.5 if self.output else 1.0
        init = nn.initializers.normal(scale)
        dtype = jnp.dtype(config.param_dtype)
        if config.number_code == "token":
            return self.param("words", init, (config.vocab_size, config.dim), dtype)
        symbols = self.param("words", init, (FIRST_NUMBER, config.dim), dtype)
        is_ordinal_input = config.number_code == "ordinal" and not self.output
        if is_ordinal_input or config.number_code == "waves":
            waves = number_waves(config.num_numbers)
            init = nn.initializers.normal(scale * (2 / waves.shape[1]) ** 0.5)
            shape = (waves.shape[1], config.dim)
            numbers = waves @ self.param("waves", init, shape, dtype)
            return jnp.concatenate([symbols, numbers.astype(dtype)])
        num_digits = len(str(config.num_numbers - 1))
        digits = self.param("digits", init, (num_digits, 10, config.dim), dtype)
        number = jnp.arange(config.num_numbers)
        numbers = sum(digits[i, number // 10**i % 10] for i in range(num_digits))
        return jnp.concatenate([symbols, numbers])


def number_waves(num_numbers: int) -> Float[Array, "v w"]:
    """Sines and cosines of the numbers 0 .. v - 1, w = 2 `NUM_WAVES` for each number.

    The wavelengths are a geometric sequence from 4 to 4 v.
    """
    wavelength = jnp.geomspace(4.0, 4.0 * num_numbers, NUM_WAVES)
    angle = 2 * jnp.pi * jnp.arange(num_numbers)[:, None] / wavelength[None]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)
