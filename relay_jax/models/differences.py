"""Round feedback with numbers as differences (not in the paper).

Where a task's rounds are rows of a matrix whose neighbours differ by little, as in edit
distance, a number is read as its step from the number on its left, and predicted as its
step from the number that the memory has in the same column:

    memory      0   2   4   6   ,
    read        0  +2  +2  +2   ,       the embedding of each step
    predicted   0   1   3   5   ,       steps 0 -1 -1 -1 from the memory

A step is one of -max_difference .. max_difference, whatever the size of the numbers, so
that numbers that never occurred in training are predicted as well as smaller ones.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from relay_jax.base import AnyArray, Array, Bool, Float, Int, Scratchpad
from relay_jax.models.feedback import FeedbackLoopedModel, MemoryState
from relay_jax.models.layers import MASK_VALUE
from relay_jax.models.looped import embed, project
from relay_jax.vocabulary import FIRST_NUMBER


class Reference(NamedTuple):
    """The number to which each column's number is relative, if there is one."""

    number: Int[Array, "b n"]
    exists: Bool[Array, "b n"]


class DifferenceModel(FeedbackLoopedModel):
    """Reads and predicts numbers as differences, in tasks whose scratchpad has them."""

    def setup(self):
        super().setup()
        num_steps = 2 * self.config.max_difference + 1
        self.step_vectors = self.param(
            "difference_words",
            nn.initializers.normal(1.0),
            (num_steps, self.config.dim),
        )
        self.round_difference = nn.Dense(num_steps, use_bias=False)
        self.answer_difference = nn.Dense(num_steps, use_bias=False)

    def reference(
        self, memory: MemoryState, scratchpad: Scratchpad
    ) -> Reference | None:
        return nearest_number(memory.tokens) if scratchpad.has_differences else None

    def embed_memory(
        self, memory: MemoryState, reference: Reference | None
    ) -> Float[Array, "b n d"]:
        x = super().embed_memory(memory, reference)
        if reference is None:
            return x
        number, exists = reference
        limit = self.config.max_difference
        left = jnp.pad(number[:, :-1], ((0, 0), (1, 0)))
        left_exists = jnp.pad(exists[:, :-1], ((0, 0), (1, 0)))
        step = jnp.clip(number - left, -limit, limit) + limit
        vectors = embed(step, self.step_vectors)
        vectors = jnp.where(left_exists[..., None], vectors, 0.0)
        return jnp.where((memory.tokens >= FIRST_NUMBER)[..., None], vectors, x)

    def round_logits(
        self, hidden: Float[Array, "b n d"], reference: Reference | None
    ) -> Float[Array, "b n v"]:
        logits = project(hidden, self.round_head())
        if reference is None:
            return logits
        steps = self.round_difference(hidden).astype(jnp.float32)
        return shift_number_logits(logits, steps, reference)

    def answer_logits(
        self, hidden: Float[Array, "b n d"], reference: Reference | None
    ) -> Float[Array, "b n v"]:
        logits = project(hidden, self.answer_head())
        if reference is None:
            return logits
        steps = self.answer_difference(hidden).astype(jnp.float32)
        return shift_number_logits(logits, steps, reference)


def nearest_number(memory: Int[AnyArray, "b n"]) -> Reference:
    """The number in each column or else the nearest one on its left, if there is one."""
    column = jnp.where(memory >= FIRST_NUMBER, jnp.arange(memory.shape[1])[None], -1)
    column = jax.lax.cummax(column, axis=1)
    number = jnp.take_along_axis(memory, jnp.maximum(column, 0), axis=1)
    return Reference(number - FIRST_NUMBER, column >= 0)


def shift_number_logits(
    logits: Float[Array, "b n v"],
    steps: Float[Array, "b n _"],
    reference: Reference,
) -> Float[Array, "b n v"]:
    """Logits in which each number has the logit of the step to it from the reference.

    Numbers further away than the largest step cannot be predicted; where a column has no
    reference, numbers keep their own logits.
    """
    symbols, numbers = jnp.split(logits, [FIRST_NUMBER], axis=-1)
    limit = steps.shape[-1] // 2
    offset = jnp.arange(numbers.shape[-1])[None, None] - reference.number[..., None]
    index = jnp.clip(offset + limit, 0, 2 * limit)
    relative = jnp.take_along_axis(steps, index, axis=-1)
    relative = jnp.where(jnp.abs(offset) <= limit, relative, MASK_VALUE)
    numbers = jnp.where(reference.exists[..., None], relative, numbers)
    return jnp.concatenate([symbols, numbers], axis=-1)
