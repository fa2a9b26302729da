"""Sampled rounds (not in the paper): some rounds of each chain, trained independently.

With round feedback, the memory before a round follows from the true rounds before it
(`models.scratchpad`). So a round can be trained as a chain of one round, without the
iterations before it. The expected loss is that of whole chains.

    chains of 3, 4 and 2 rounds; 2 are sampled of each: b = 3 chains become b k = 6

    chain 0  round 1  ->  0        chain 1  round 2  ->  2        chain 2  round 1  ->  4
             round 3  ->  1                 round 3  ->  3                 round 2  ->  5
"""

import jax
import jax.numpy as jnp

from relay_jax.base import AnyArray, Array, Int, Key, LoopedBatch, Scratchpad, Shaped
from relay_jax.models.scratchpad import write_memory
from relay_jax.training.augment import LoopedInputs
from relay_jax.vocabulary import PAD


def sample_rounds(
    key: Key[Array, ""], num_rounds: Int[AnyArray, " b"], num: int
) -> Int[Array, "b k"]:
    """`num` of the rounds 0..T-1 of each chain, one from each of `num` equal parts.

    Every round is equally likely.
    """
    within = jax.random.uniform(key, (len(num_rounds), num))
    position = (jnp.arange(num)[None] + within) / num * num_rounds[:, None]
    return jnp.minimum(position.astype(jnp.int32), num_rounds[:, None] - 1)


def gather_rounds(
    values: Shaped[AnyArray, "t b *n"], sampled: Int[Array, "b k"]
) -> Shaped[Array, "1 b*k *n"]:
    """The values of the sampled rounds, each as a chain of a single round."""
    chain = jnp.arange(len(sampled))[:, None]
    found = jnp.asarray(values)[sampled, chain]
    return found.reshape(1, -1, *found.shape[2:])


def train_sampled_rounds(
    inputs: LoopedInputs, key: Key[Array, ""], num: int
) -> LoopedInputs:
    """`num` rounds of each chain, each as a chain of its own after the true rounds.

    Only the last of T rounds is followed by the answer, whose weight is therefore T.
    """
    batch = inputs.batch
    sampled = sample_rounds(key, batch.num_rounds, num)
    is_last = sampled == batch.num_rounds[:, None] - 1
    answer = jnp.where(is_last, batch.answer[:, None], PAD).ravel()
    scratchpad = inputs.scratchpad
    if scratchpad is not None:
        scratchpad = sampled_scratchpad(scratchpad, batch.rounds, sampled)
    return LoopedInputs(
        LoopedBatch(
            problem=jnp.repeat(jnp.asarray(batch.problem), num, axis=0),
            rounds=gather_rounds(batch.rounds, sampled),
            mask=gather_rounds(batch.mask, sampled),
            answer=answer,
            num_rounds=jnp.ones_like(answer),
        ),
        scratchpad,
        answer_weight=jnp.repeat(batch.num_rounds, num),
    )


def sampled_scratchpad(
    scratchpad: Scratchpad, rounds: Int[AnyArray, "t b r"], sampled: Int[Array, "b k"]
) -> Scratchpad:
    """The scratchpad of each sampled round, after the true rounds before it."""

    def step(memory, inputs):
        return write_memory(memory, *inputs), memory

    inputs = rounds, scratchpad.copy_from, scratchpad.constants
    _, memory = jax.lax.scan(step, scratchpad.initial, inputs)
    return scratchpad._replace(
        initial=gather_rounds(memory, sampled)[0],
        copy_from=gather_rounds(scratchpad.copy_from, sampled),
        constants=gather_rounds(scratchpad.constants, sampled),
        pointers=gather_rounds(scratchpad.pointers, sampled),
    )
