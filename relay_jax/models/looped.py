"""The looped Transformer (RELAY, section 3): one block, applied T times.

    e_0 = embed(problem)        e_t = block(e_{t-1})            t = 1 .. T
    round t = argmax round_head(e_t)        answer = argmax answer_head(e_T)

Iteration t is trained to predict round t of the chain, right-aligned in the columns of
the problem (`data.alignment` shows how). The parameters are shared by all iterations,
so they do not depend on T, and a run of T iterations is the beginning of a longer run.
`feedback.py`, which is not in the paper, feeds rounds back instead of hidden states.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from relay_jax.base import AnyArray, Array, Bool, Float, Int, PyTree, Shaped
from relay_jax.config import ModelConfig
from relay_jax.models.embeddings import Embedding
from relay_jax.models.layers import REMAT_POLICY, Layer, make_norm
from relay_jax.models.sharding import constrain
from relay_jax.vocabulary import PAD


class LoopedOutput(NamedTuple):
    """What the model predicts in each iteration.

    Iterations past an example's own T are computed too, but their predictions are
    meaningless: losses mask them, and predicted chains leave them out.
    """

    rounds: Int[Array, "t b r"]  # the most likely tokens, in the last r columns
    confidence: Float[Array, "t b r"]  # their probabilities
    round_logits: Float[Array, "t b r v"] | None  # None unless `keep_logits`
    answer_logits: Float[Array, "b v"]  # after iteration T of each example


class LoopedModel(nn.Module):
    """The paper's model; the aligned and the vanilla looped model differ in their loss.

    Parameters have the names of published checkpoints, such as "problem_words".
    """

    config: ModelConfig

    def setup(self):
        config = self.config
        self.layers = [
            Layer(config, name=f"layer_{i}") for i in range(config.num_layers)
        ]
        self.norm = make_norm(config, "norm")
        self.problem_embedding = Embedding(config, name="problem_words")
        self.round_head = Embedding(config, output=True)
        self.answer_head = Embedding(config, output=True)

    def __call__(
        self,
        problem: Int[AnyArray, "b n"],
        num_rounds: Int[AnyArray, " b"],
        *,
        num_loops: int,
        train: bool = False,
        keep_logits: bool = False,
        columns: int = 0,
    ) -> LoopedOutput:
        """Runs `num_loops` iterations; each answer is read after its example's own T.

        Args:
          problem: right-aligned problem tokens.
          num_rounds: T of each example, at most `num_loops`.
          train: whether dropout is on (needs the `dropout` key).
          keep_logits: whether to return `round_logits`.
          columns: r, the number of last columns in which rounds are predicted; 0: all n.
        """

        def iteration(self, hidden, _):
            hidden = self.block(hidden, problem != PAD, train)  # e_t
            logits = project(hidden[:, -columns:], self.round_head())
            return hidden, (predict(logits, keep_logits), hidden[:, -1])

        hidden = embed(problem, self.problem_embedding())  # e_0
        outputs = scan_iterations(self, iteration, hidden, None, num_loops)
        (rounds, confidence, logits), last = outputs
        answer = project(select_iteration(last, num_rounds), self.answer_head())
        return LoopedOutput(rounds, confidence, logits, answer[:, 0])

    def block(
        self, x: Float[Array, "b n d"], seen: Bool[AnyArray, "b n"], train: bool
    ) -> Float[Array, "b n d"]:
        """The shared block; attention is bidirectional over the `seen` columns."""
        num, width = seen.shape
        positions = jnp.arange(width)[None]
        mask = jnp.broadcast_to(seen[:, None], (num, width, width))
        x = constrain(x, "batch", None, None)
        for layer in self.layers:
            x, _ = layer(x, positions, mask, train=train)
        return self.norm(x)


def scan_iterations(
    model: nn.Module,
    iteration: Callable,
    carry: PyTree,
    inputs: PyTree,
    num_loops: int,
) -> PyTree:
    """Outputs of `iteration(model, carry, inputs[t]) -> (carry, output)`, stacked over t.

    Parameters are shared by all iterations; each draws its own dropout.
    """
    if model.config.remat and num_loops > 1:  # a single iteration has nothing to free
        iteration = nn.remat(iteration, prevent_cse=False, policy=REMAT_POLICY)
    scan = nn.scan(
        iteration,
        variable_broadcast="params",
        split_rngs={"params": False, "dropout": True},
        length=num_loops,
    )
    return scan(model, carry, inputs)[1]


def select_iteration(
    last: Shaped[Array, "t b *d"], num_rounds: Int[AnyArray, " b"]
) -> Shaped[Array, "b 1 *d"]:
    """The values of each example's own iteration T; later iterations are ignored."""
    index = jnp.maximum(num_rounds - 1, 0)[None, :]
    index = jnp.expand_dims(index, tuple(range(2, last.ndim)))
    return jnp.take_along_axis(last, index, axis=0)[0][:, None]


def embed(
    ids: Int[AnyArray, "*b n"], table: Float[Array, "v d"]
) -> Float[Array, "*b n d"]:
    """The vectors of tokens, in float32 like everything that the scan carries.

    The product with a one-hot matrix makes the gradient a matrix product too.
    """
    one_hot = jax.nn.one_hot(ids, table.shape[0], dtype=table.dtype)
    return (one_hot @ table).astype(jnp.float32)


def project(
    hidden: Float[Array, "b n d"], head: Float[Array, "v d"]
) -> Float[Array, "b n v"]:
    """The logits of a head, in float32."""
    return (hidden @ head.T).astype(jnp.float32)


def predict(
    logits: Float[Array, "b r v"], keep_logits: bool
) -> tuple[Array, Array, Array | None]:
    """The most likely tokens, their probabilities and, if `keep_logits`, the logits."""
    rounds = jnp.argmax(logits, axis=-1)
    confidence = jnp.exp(jnp.max(jax.nn.log_softmax(logits), axis=-1))
    return rounds, confidence, logits if keep_logits else None
