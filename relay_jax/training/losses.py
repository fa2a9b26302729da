"""The losses of RELAY (section 3.2), as functions of a model's output and a batch."""

import jax.numpy as jnp
import optax

from relay_jax.base import AnyArray, Array, Bool, DecoderBatch, Float, Int, LoopedBatch
from relay_jax.config import LossConfig
from relay_jax.models.looped import LoopedOutput
from relay_jax.vocabulary import PAD


def iteration_loss(
    logits: Float[Array, "t b n v"],
    rounds: Int[AnyArray, "t b n"],
    mask: Bool[AnyArray, "t b n"],
    num_rounds: Int[AnyArray, " b"],
) -> Float[Array, ""]:
    """L_iter, the cross-entropy of the rounds of each chain (Eqs. 6-8).

    It is the mean over the T rounds of the mean over the positions with M_t = 1. Rounds
    past T have an empty mask and add 0.
    """
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, rounds)
    num_trained = jnp.maximum(mask.sum(axis=-1), 1)
    per_round = jnp.where(mask, entropy, 0.0).sum(axis=-1) / num_trained
    return jnp.mean(per_round.sum(axis=0) / num_rounds)


def answer_loss(
    logits: Float[Array, "b v"],
    answer: Int[AnyArray, " b"],
    weight: int | Int[Array, " b"] = 1,
) -> Float[Array, ""]:
    """L_ans, the cross-entropy of the answer after iteration T (Eq. 9).

    A chain that was cut before its answer (`<pad>`) adds 0.
    """
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, answer)
    return jnp.mean(jnp.where(answer != PAD, entropy * weight, 0.0))


def looped_loss(
    output: LoopedOutput,
    batch: LoopedBatch,
    config: LossConfig,
    weight: int | Int[Array, " b"] = 1,
) -> tuple[Float[Array, ""], dict]:
    """L = L_ans + lambda L_iter (Eq. 10), and both parts.

    With lambda = 0 it is the loss of the vanilla looped model: L_iter is not computed.

    Args:
      config: lambda is its `round_weight`; L_ans can be weighted too.
      weight: of each chain's answer.
    """
    answer = answer_loss(output.answer_logits, batch.answer, weight)
    rounds = jnp.zeros(())
    if config.round_weight and output.round_logits is not None:
        rounds = iteration_loss(
            output.round_logits, batch.rounds, batch.mask, batch.num_rounds
        )
    total = config.answer_weight * answer + config.round_weight * rounds
    return total, {"loss_answer": answer, "loss_rounds": rounds}


def decoder_loss(
    logits: Float[Array, "b n v"], batch: DecoderBatch
) -> Float[Array, ""]:
    """The mean cross-entropy of chain and answer, token by token (RELAY, section 4.1).

    Args:
      logits: of all tokens of the batch but the last: each predicts the next one.
    """
    targets, trained = batch.tokens[:, 1:], batch.trained[:, 1:]
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return jnp.where(trained, entropy, 0.0).sum() / jnp.maximum(trained.sum(), 1)
