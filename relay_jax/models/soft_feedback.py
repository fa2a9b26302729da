"""Round feedback by mixtures of embeddings, so that gradients pass between iterations."""

import jax
import jax.numpy as jnp

from relay_jax.base import Array, Float, Scratchpad
from relay_jax.models.feedback import FeedbackLoopedModel, MemoryState, choose_round
from relay_jax.models.looped import embed
from relay_jax.models.scratchpad import write_memory, write_values


class SoftFeedbackModel(FeedbackLoopedModel):
    """Feeds back the mean embedding under the predicted distribution.

    The memory's tokens, the most likely ones, only determine which columns are visible.
    """

    def start(self, scratchpad: Scratchpad) -> MemoryState:
        tokens = scratchpad.initial
        return MemoryState(tokens, embed(tokens, self.memory_embedding()))

    def embed_memory(
        self, memory: MemoryState, reference: None
    ) -> Float[Array, "b n d"]:
        assert memory.vectors is not None
        return memory.vectors

    def write(
        self, memory, rounds, logits, copy_from, constants, teacher
    ) -> MemoryState:
        tokens, forced = choose_round(rounds, teacher)
        rules = copy_from, constants
        forced = forced[:, None, None]
        table = self.memory_embedding()
        probabilities = jnp.where(forced, 0.0, jax.nn.softmax(logits))
        vectors = jnp.where(forced, embed(tokens, table), probabilities @ table)
        constant_vectors = embed(jnp.maximum(constants, 0), table)
        return MemoryState(
            write_memory(memory.tokens, tokens, *rules),
            write_values(memory.vectors, vectors, constant_vectors, *rules),
        )
