"""A looped model with round feedback (not in the paper).

No hidden state passes from iteration to iteration. The round that an iteration predicts
is written into a memory, by the rules of the task's `Scratchpad`; the next iteration
reads the memory:

    e_t = block(embed(memory_t) [+ embed(problem)] + pointers_t)
    memory_{t+1} = write(memory_t, round_t)

So errors can propagate only as tokens, and the computation of an iteration depends
neither on T nor on its position in the chain: the model extrapolates to longer chains.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from relay_jax.base import AnyArray, Array, Bool, Float, Int, Scratchpad
from relay_jax.models.embeddings import Embedding
from relay_jax.models.looped import (
    LoopedModel,
    LoopedOutput,
    embed,
    predict,
    project,
    scan_iterations,
    select_iteration,
)
from relay_jax.models.scratchpad import read_round, write_memory
from relay_jax.vocabulary import PAD

NUM_POINTERS = 32  # pointer vectors; pointer 0 of a scratchpad means none


class TeacherForcing(NamedTuple):
    """True rounds, and where they replace the predicted ones in the feedback."""

    rounds: Int[AnyArray, "t b r"]
    forced: Bool[AnyArray, "t b"]


class MemoryState(NamedTuple):
    """The carry of the scan over iterations."""

    tokens: Int[Array, "b n"]
    vectors: Float[Array, "b n d"] | None = None  # of `SoftFeedbackModel` only


class FeedbackLoopedModel(LoopedModel):
    """A looped model whose iterations see the rounds before them, as tokens."""

    def setup(self):
        super().setup()
        self.memory_embedding = Embedding(self.config, name="memory_words")
        shape = (2, NUM_POINTERS, self.config.dim)
        self.pointer_vectors = self.param("marks", nn.initializers.normal(1.0), shape)

    def __call__(
        self,
        problem: Int[AnyArray, "b n"],
        num_rounds: Int[AnyArray, " b"],
        scratchpad: Scratchpad,
        teacher: TeacherForcing | None = None,
        *,
        num_loops: int,
        train: bool = False,
        keep_logits: bool = False,
        columns: int = 0,
    ) -> LoopedOutput:
        """Runs `num_loops` iterations with round feedback.

        The other arguments are those of `LoopedModel`.

        Args:
          scratchpad: the rules of the feedback, for `num_loops` iterations.
          teacher: true rounds to feed back instead of the predicted ones.
        """

        def iteration(self, memory, inputs):
            (copy_from, constants, pointers), teacher = inputs
            reference = self.reference(memory, scratchpad)
            x, seen = self.read(memory, reference, problem, pointers, scratchpad)
            hidden = self.block(x, seen, train)
            last_columns = jax.tree.map(lambda x: x[:, -columns:], (hidden, reference))
            logits = self.round_logits(*last_columns)
            prediction = predict(logits, keep_logits)
            memory = self.write(
                memory, prediction[0], logits, copy_from, constants, teacher
            )
            last = jax.tree.map(lambda x: x[:, -1], (hidden, reference))
            return memory, (prediction, last)

        rules = scratchpad.copy_from, scratchpad.constants, scratchpad.pointers
        (rounds, confidence, logits), last = scan_iterations(
            self, iteration, self.start(scratchpad), (rules, teacher), num_loops
        )
        last = jax.tree.map(lambda x: select_iteration(x, num_rounds), last)
        answer = self.answer_logits(*last)[:, 0]
        return LoopedOutput(rounds, confidence, logits, answer)

    def start(self, scratchpad: Scratchpad) -> MemoryState:
        """The memory before the first iteration."""
        return MemoryState(scratchpad.initial)

    def read(
        self,
        memory: MemoryState,
        reference: Any,
        problem: Int[AnyArray, "b n"],
        pointers: Int[AnyArray, "b n 2"],
        scratchpad: Scratchpad,
    ) -> tuple[Float[Array, "b n d"], Bool[Array, "b n"]]:
        """The input of an iteration, and which of its columns attention can see."""
        x = self.embed_memory(memory, reference)
        filled = memory.tokens != PAD
        # The boundary pad is visible too: heads can attend to it if nothing else fits.
        seen = filled | jnp.pad(filled[:, 1:], ((0, 0), (0, 1)))
        x = jnp.where(seen[..., None], x, 0.0)
        if scratchpad.shows_problem:
            x += embed(problem, self.problem_embedding())
            seen |= problem != PAD
        one_hot = jax.nn.one_hot(pointers, NUM_POINTERS)
        one_hot = jnp.where(pointers[..., None] > 0, one_hot, 0.0)
        return x + jnp.einsum("bnck,ckd->bnd", one_hot, self.pointer_vectors), seen

    def write(
        self, memory, rounds, logits, copy_from, constants, teacher
    ) -> MemoryState:
        """The memory after the predicted round, or the teacher's instead."""
        tokens, _ = choose_round(rounds, teacher)
        return MemoryState(write_memory(memory.tokens, tokens, copy_from, constants))

    def embed_memory(
        self, memory: MemoryState, reference: Any
    ) -> Float[Array, "b n d"]:
        """The vectors of the memory's tokens."""
        return embed(memory.tokens, self.memory_embedding())

    def reference(self, memory: MemoryState, scratchpad: Scratchpad) -> Any:
        """What numbers are read and predicted relative to; None in this model."""
        return None

    def round_logits(self, hidden: Float[Array, "b n d"], reference: Any) -> Array:
        """The logits of a round, `[b, n, v]`."""
        return project(hidden, self.round_head())

    def answer_logits(self, hidden: Float[Array, "b n d"], reference: Any) -> Array:
        """The logits of the answer, `[b, n, v]`."""
        return project(hidden, self.answer_head())


def choose_round(
    rounds: Int[Array, "b r"], teacher: TeacherForcing | None
) -> tuple[Int[Array, "b r"], Bool[Array, " b"]]:
    """The round that is fed back, and whether it is the teacher's.

    Args:
      teacher: the true rounds of this iteration, without the axis t.
    """
    tokens = read_round(rounds)
    forced = jnp.zeros(len(tokens), bool)
    if teacher is not None:
        forced = jnp.asarray(teacher.forced)
        tokens = jnp.where(forced[:, None], teacher.rounds, tokens)
    return tokens, forced
