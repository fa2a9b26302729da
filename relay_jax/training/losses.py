"""The losses of the paper, each a function of a model's output and a batch."""

import jax
import jax.numpy as jnp
import optax

from relay_jax.base import (
    AnyArray,
    Array,
    Bool,
    DecoderBatch,
    Float,
    Int,
    Key,
    LoopedBatch,
    PyTree,
)
from relay_jax.config import LossConfig, ModelConfig
from relay_jax.data.text import Text
from relay_jax.models.decoder import run_decoder
from relay_jax.models.feedback import ValueOffset, gather_rounds, sample_rounds
from relay_jax.models.looped import TeacherForcing, run_looped
from relay_jax.tasks import Task
from relay_jax.vocabulary import FIRST_NUMBER, PAD


def iteration_loss(
    logits: Float[Array, "t b n v"],
    rounds: Int[AnyArray, "t b n"],
    mask: Bool[AnyArray, "t b n"],
    num_rounds: Int[AnyArray, " b"],
) -> Float[Array, ""]:
    """L_iter: for each chain, the mean over its T rounds of the mean cross-entropy over
    the positions with M_t = 1 (Eqs. 6-8). Rounds past T have an empty mask and add 0."""
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, rounds)
    trained = jnp.maximum(mask.sum(axis=-1), 1)
    per_round = jnp.where(mask, entropy, 0.0).sum(axis=-1) / trained
    return jnp.mean(per_round.sum(axis=0) / num_rounds)


def answer_loss(
    logits: Float[Array, "b v"],
    answer: Int[AnyArray, " b"],
    weight: int | Int[Array, " b"] = 1,
) -> Float[Array, ""]:
    """L_ans: the cross-entropy of the answer after the last loop (Eq. 9); a chain that
    was cut before its answer adds 0."""
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, answer)
    return jnp.mean(jnp.where(answer != PAD, entropy * weight, 0.0))


def looped_loss(
    params: PyTree,
    batch: LoopedBatch,
    key: Key[Array, ""],
    forcing: Float[Array, ""],
    *,
    task: Task,
    num_loops: int,
    model: ModelConfig,
    loss: LossConfig,
) -> tuple[Float[Array, ""], dict]:
    """L = L_ans + lambda L_iter (Eq. 10), times the task's weight.

    With fewer loops than the batch has rounds, so many of each chain's rounds are drawn,
    and each is run by itself; the loss is the same on average.
    """
    dropout_key, forcing_key, shift_key, draw_key = jax.random.split(key, 4)
    shift, weight, drawn = None, 1, None
    if task.name in loss.max_value_offset:
        most = loss.max_value_offset[task.name]
        shift = sample_value_offset(shift_key, batch.rounds, most, loss.value_gap_prob)
        batch = offset_chains(batch, shift)
    _, rounds, mask, answer, num_rounds = batch
    if num_loops < len(rounds):
        drawn = sample_rounds(draw_key, num_rounds, num_loops)
    spoken = run_looped(
        params,
        batch.problem,
        batch.num_rounds,
        task=task,
        num_loops=len(rounds),
        model=model,
        teacher=TeacherForcing(
            rounds, jax.random.bernoulli(forcing_key, forcing, rounds.shape[:2])
        ),
        shift=shift,
        key=dropout_key,
        columns=rounds.shape[-1],
        drawn=drawn,
    )
    if drawn is not None:
        is_last = drawn == num_rounds[:, None] - 1
        answer = jnp.where(is_last, answer[:, None], PAD).ravel()
        weight = jnp.repeat(num_rounds, num_loops)  # of T rounds it follows one
        rounds, mask = gather_rounds(rounds, drawn), gather_rounds(mask, drawn)
        num_rounds = jnp.ones_like(answer)
    answered = answer_loss(spoken.answer_logits, answer, weight)
    if loss.round_weight and spoken.round_logits is not None:
        told = iteration_loss(spoken.round_logits, rounds, mask, num_rounds)
    else:
        told = jnp.zeros(())
    total = loss.answer_weight * answered + loss.round_weight * told
    total *= loss.task_weights.get(task.name, 1.0)
    return total, {"loss": total, "loss_answer": answered, "loss_rounds": told}


def sample_value_offset(
    key: Key[Array, ""],
    rounds: Int[AnyArray, "t b r"],
    most: int,
    value_gap_prob: float = 0.0,
) -> ValueOffset:
    """Half of the examples count from 0, the others from a random number up to `most`
    (not in the paper). With `value_gap_prob`, so many of them begin as they are, and only
    the values from a random one on are raised: values of one chain are then as far
    apart as in longer problems."""
    zero_key, gap_key, least_key, key = jax.random.split(key, 4)
    num = rounds.shape[1]
    by = jax.random.randint(key, (num,), 0, most + 1)
    by = jnp.where(jax.random.bernoulli(zero_key, 0.5, (num,)), 0, by)
    top = jnp.maximum(jnp.max(rounds, axis=(0, 2)) - FIRST_NUMBER, 1)
    least = jax.random.randint(least_key, (num,), 1, top + 1)
    has_gap = jax.random.bernoulli(gap_key, value_gap_prob, (num,)) & (by > 0)
    return ValueOffset(by, jnp.where(has_gap, least, 0))


def offset_chains(batch: LoopedBatch, shift: ValueOffset) -> LoopedBatch:
    """Chains with raised numbers, trained on what follows from what was said before.

    Where each value is one more than the largest of some others, as in LIS, raising all
    from `least` on keeps this true of all but `least` itself, which follows from a value
    below the gap; and then of those in its round, which may follow from it, and of an
    answer to this round.
    """
    least = FIRST_NUMBER + shift.least[None, :, None]
    begins = (batch.rounds == least) & (least > FIRST_NUMBER)
    follows = ~begins.any(axis=-1, keepdims=True) | (batch.rounds < least)
    last = jnp.maximum(batch.num_rounds - 1, 0)[None]
    ends = jnp.take_along_axis(follows.all(axis=-1), last, axis=0)[0]
    answer = shift.apply(batch.answer[:, None])[:, 0]
    return batch._replace(
        rounds=shift.apply(batch.rounds),
        mask=batch.mask & follows,
        answer=jnp.where(ends, answer, PAD),
    )


def decoder_loss(
    params: PyTree,
    batch: DecoderBatch,
    key: Key[Array, ""],
    forcing: Float[Array, ""],
    *,
    task: Task | Text,
    num_loops: int,
    model: ModelConfig,
    loss: LossConfig,
) -> tuple[Float[Array, ""], dict]:
    """The mean cross-entropy of chain and answer, token by token (section 4.1)."""
    logits, _ = run_decoder(params, batch.tokens[:, :-1], model=model, key=key)
    target, trained = batch.tokens[:, 1:], batch.trained[:, 1:]
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, target)
    told = jnp.where(trained, entropy, 0.0).sum() / jnp.maximum(trained.sum(), 1)
    total = told * loss.task_weights.get(task.name, 1.0)
    return total, {"loss": total}


LOSSES = {"looped": looped_loss, "decoder": decoder_loss}
