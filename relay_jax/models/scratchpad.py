"""The rules of a `Scratchpad`: what each round of a chain writes into the memory.

They are index arrays, so the memory before any round follows from the earlier rounds
alone, without the model: rounds can be trained independently of each other.

    memory       .   .   .   0   2   4   6   ,      edit distance, before round 1
    round 1      .   .   .   .   0   2   4   ,      right-aligned, as predicted
    copy_from   -1  -1  -1  -1   4   5   6   7      its columns are copied to the memory
    constants   -1  -1  -1   2  -1  -1  -1  -1      written whatever the prediction
    memory       .   .   .   2   0   2   4   ,      after round 1
"""

from typing import Any

import jax.numpy as jnp

from relay_jax.base import AnyArray, Array, Int
from relay_jax.vocabulary import PAD


def read_round(predicted: Int[Array, "b n"]) -> Int[Array, "b n"]:
    """A predicted round, with `<pad>` everywhere to the left of its boundary pad.

    A right-aligned round begins after its boundary pad. The columns further left were
    never trained:

        predicted   7  7  .  5  .  3  4
        round       .  .  .  .  .  3  4
    """
    is_open = jnp.cumprod(predicted[:, ::-1] != PAD, axis=1)[:, ::-1]
    return jnp.where(is_open == 1, predicted, PAD)


def write_memory(
    memory: Int[Array, "b n"],
    round_tokens: Int[Array, "b r"],
    copy_from: Int[Array, "b n"],
    constants: Int[Array, "b n"],
) -> Int[Array, "b n"]:
    """The memory after a round that occupies the last r columns (`base.Scratchpad`)."""
    return write_values(memory, round_tokens, constants, copy_from, constants)


def write_values(
    memory: Any,
    round_values: Any,
    constant_values: Any,
    copy_from: Int[Array, "b n"],
    constants: Int[Array, "b n"],
) -> Any:
    """`write_memory` for tokens or for their vectors.

    Args:
      memory: `[b, n]`, or vectors `[b, n, d]`; so is `constant_values`.
      round_values: `[b, r]`, or vectors `[b, r, d]`, of the last r columns.
    """
    left = memory.shape[1] - round_values.shape[1]  # columns without a prediction
    padding = ((0, 0), (left, 0), *[(0, 0)] * (round_values.ndim - 2))
    values = jnp.pad(round_values, padding)
    rank = memory.ndim
    index = match_rank(jnp.maximum(copy_from, 0), rank)
    copied = jnp.take_along_axis(values, index, axis=1)
    memory = jnp.where(match_rank(copy_from >= 0, rank), copied, memory)
    return jnp.where(match_rank(constants >= 0, rank), constant_values, memory)


def match_rank(index: AnyArray, rank: int) -> AnyArray:
    """An index `[b, n]` with a last axis of size 1 where vectors are indexed."""
    return index if rank == 2 else index[..., None]
