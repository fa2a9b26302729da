"""What a training step minimizes: a model's loss on a batch, with the config's extensions.

    batch -> feedback -> value offsets -> sampled rounds -> model -> loss
             scratchpad  `augment`        `sampled_rounds`           `losses`

Without extensions this is the paper's: batch -> model -> loss. An extension is a function
from `LoopedInputs` to `LoopedInputs`, and only this module decides which of them apply.
"""

import jax
import jax.numpy as jnp

from relay_jax.base import Array, DecoderBatch, Float, Key, LoopedBatch, PyTree
from relay_jax.config import LossConfig, ModelConfig
from relay_jax.data.text import Text
from relay_jax.models.decoder import run_decoder
from relay_jax.models.feedback import TeacherForcing
from relay_jax.models.looped import LoopedOutput
from relay_jax.models.registry import run_looped
from relay_jax.tasks import Task
from relay_jax.training.augment import LoopedInputs, offset_values
from relay_jax.training.losses import decoder_loss, looped_loss
from relay_jax.training.sampled_rounds import train_sampled_rounds


def looped_objective(
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
    """L of Eq. 10, times the task's weight, and the metrics of the step.

    Args:
      forcing: the probability of feeding back a true round, not the predicted one.
      num_loops: iterations. If the batch has more rounds, this many of each chain are
        sampled and trained independently; the loss is the same on average.
    """
    dropout_key, forcing_key, offset_key, sample_key = jax.random.split(key, 4)
    inputs = LoopedInputs(batch)
    if model.uses_feedback:
        inputs = add_feedback(inputs, task, forcing_key, forcing)
    if task.name in loss.max_value_offset:
        max_offset = loss.max_value_offset[task.name]
        inputs = offset_values(inputs, offset_key, max_offset, loss.value_gap_prob)
    if num_loops < len(batch.rounds):
        inputs = train_sampled_rounds(inputs, sample_key, num_loops)
    output = run_inputs(params, inputs, model, dropout_key)
    total, parts = looped_loss(output, inputs.batch, loss, inputs.answer_weight)
    total *= loss.task_weights.get(task.name, 1.0)
    return total, {"loss": total, **parts}


def add_feedback(
    inputs: LoopedInputs, task: Task, key: Key[Array, ""], forcing: Float[Array, ""]
) -> LoopedInputs:
    """Inputs of a model with round feedback: a scratchpad, and which rounds are forced."""
    batch = inputs.batch
    shape = batch.rounds.shape[:2]
    scratchpad = task.scratchpad(jnp.asarray(batch.problem), shape[0])
    forced = jax.random.bernoulli(key, forcing, shape)
    return inputs._replace(scratchpad=scratchpad, forced=forced)


def run_inputs(
    params: PyTree, inputs: LoopedInputs, model: ModelConfig, key: Key[Array, ""]
) -> LoopedOutput:
    """The looped model on its training inputs, with dropout."""
    batch, teacher = inputs.batch, None
    if inputs.forced is not None:
        teacher = TeacherForcing(batch.rounds, inputs.forced)
    return run_looped(
        params,
        batch.problem,
        batch.num_rounds,
        num_loops=len(batch.rounds),
        model=model,
        scratchpad=inputs.scratchpad,
        teacher=teacher,
        key=key,
        columns=batch.rounds.shape[-1],
    )


def decoder_objective(
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
    """The decoder's cross-entropy (RELAY, section 4.1), times the task's weight."""
    logits, _ = run_decoder(params, batch.tokens[:, :-1], model=model, key=key)
    total = decoder_loss(logits, batch) * loss.task_weights.get(task.name, 1.0)
    return total, {"loss": total}


OBJECTIVES = {"looped": looped_objective, "decoder": decoder_objective}
