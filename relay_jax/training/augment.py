"""Value offsets (not in the paper): an offset is added to all numbers of a chain.

So training covers values that otherwise occur in longer problems only. The offset is
added to everything that counts: the scratchpad's numbers, the rounds and the answer.

    LIS, offset 5      memory   0 . . . .       ->   5 . . . .
                       round    1 2 2 3 <sep>   ->   6 7 7 8 <sep>
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from relay_jax.base import AnyArray, Array, Bool, Int, Key, LoopedBatch, Scratchpad
from relay_jax.vocabulary import FIRST_NUMBER, PAD


class LoopedInputs(NamedTuple):
    """What a looped model is run on and trained on: what augmentations change."""

    batch: LoopedBatch
    # With round feedback only:
    scratchpad: Scratchpad | None = None
    forced: Bool[Array, "t b"] | None = None  # where true rounds are fed back
    answer_weight: int | Int[Array, " b"] = 1  # of each chain in L_ans


class ValueOffset(NamedTuple):
    """The offset that is added to the numbers of each chain."""

    by: Int[Array, " b"]
    min: Int[Array, " b"]  # smaller numbers stay as they are

    def apply(self, tokens: Int[AnyArray, "*t b n"]) -> Int[Array, "*t b n"]:
        """The tokens with the offset added to numbers; other tokens are unchanged."""
        tokens = jnp.asarray(tokens)
        outer = tuple(range(tokens.ndim - 2))
        by, min_value = (jnp.expand_dims(part, (*outer, -1)) for part in self)
        return jnp.where(tokens >= FIRST_NUMBER + min_value, tokens + by, tokens)


def sample_value_offset(
    key: Key[Array, ""],
    rounds: Int[AnyArray, "t b r"],
    max_offset: int,
    value_gap_prob: float = 0.0,
) -> ValueOffset:
    """Random offsets: 0 for half of the chains, else uniform in 0..max_offset.

    With probability `value_gap_prob`, the offset is added only to the values from a
    random one upwards: the values of one chain are then as far apart as in longer
    problems.
    """
    zero_key, gap_key, min_key, key = jax.random.split(key, 4)
    num = rounds.shape[1]
    by = jax.random.randint(key, (num,), 0, max_offset + 1)
    by = jnp.where(jax.random.bernoulli(zero_key, 0.5, (num,)), 0, by)
    largest = jnp.maximum(jnp.max(rounds, axis=(0, 2)) - FIRST_NUMBER, 1)
    min_value = jax.random.randint(min_key, (num,), 1, largest + 1)
    has_gap = jax.random.bernoulli(gap_key, value_gap_prob, (num,)) & (by > 0)
    return ValueOffset(by, jnp.where(has_gap, min_value, 0))


def offset_chains(batch: LoopedBatch, offset: ValueOffset) -> LoopedBatch:
    """Chains with their offsets, trained on what still follows from their memory.

    A value gap (`offset.min` > 0) is for LIS, where each value is one more than the
    largest of some others. This remains true of every value except `offset.min`, which
    follows from a value below the gap. So `offset.min` is not trained, nor are the
    larger values of its round, which may follow from it, nor the answer if that round
    is the last.
    """
    first = FIRST_NUMBER + offset.min[None, :, None]  # the first value above the gap
    crosses = (batch.rounds == first) & (first > FIRST_NUMBER)
    follows = ~crosses.any(axis=-1, keepdims=True) | (batch.rounds < first)
    last = jnp.maximum(batch.num_rounds - 1, 0)[None]
    answer_follows = jnp.take_along_axis(follows.all(axis=-1), last, axis=0)[0]
    answer = offset.apply(batch.answer[:, None])[:, 0]
    return batch._replace(
        rounds=offset.apply(batch.rounds),
        mask=batch.mask & follows,
        answer=jnp.where(answer_follows, answer, PAD),
    )


def offset_values(
    inputs: LoopedInputs, key: Key[Array, ""], max_offset: int, value_gap_prob: float
) -> LoopedInputs:
    """The inputs with a random offset added to each chain (`sample_value_offset`)."""
    batch, scratchpad = inputs.batch, inputs.scratchpad
    offset = sample_value_offset(key, batch.rounds, max_offset, value_gap_prob)
    if scratchpad is not None:
        scratchpad = scratchpad._replace(
            initial=offset.apply(scratchpad.initial),
            constants=offset.apply(scratchpad.constants),
        )
    return inputs._replace(batch=offset_chains(batch, offset), scratchpad=scratchpad)
