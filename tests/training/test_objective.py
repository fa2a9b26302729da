"""What a step minimizes: the paper's loss of a model's output, extensions included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.config import LossConfig, ModelConfig, TrainConfig
from relay_jax.data.alignment import decoder_batch, looped_batch
from relay_jax.models.decoder import run_decoder
from relay_jax.models.feedback import TeacherForcing
from relay_jax.models.registry import run_looped
from relay_jax.tasks import TASKS
from relay_jax.training.augment import sample_value_offset
from relay_jax.training.losses import decoder_loss
from relay_jax.training.objective import decoder_objective, looped_objective
from relay_jax.training.step import init_params
from relay_jax.vocabulary import FIRST_NUMBER
from tests.looped_setups import log_softmax, slow_iteration_loss

SMALL = {"num_layers": 1, "dim": 16, "mlp_dim": 16, "num_numbers": 64, "dropout": 0.0}
TASK = TASKS["edit_distance"]()
EXAMPLES = TASK.sample(np.random.default_rng(0), np.array([3, 1, 2]))
WEIGHTS = {"edit_distance": 10.0, "lis": 5.0}


@pytest.mark.parametrize("round_weight", [0.0, 0.25])
def test_the_papers_objective_is_the_loss_of_what_the_model_predicts(round_weight):
    model = ModelConfig(**SMALL)
    params = init_params(TrainConfig(model=model))
    batch = jax.tree.map(jnp.asarray, looped_batch(EXAMPLES, TASK, 3))
    inputs = params, batch, jax.random.key(0), jnp.ones(())
    total, parts = looped_objective(
        *inputs,
        task=TASK,
        num_loops=3,
        model=model,
        loss=LossConfig(round_weight=round_weight, task_weights=WEIGHTS),
    )
    output = run_looped(
        params,
        batch.problem,
        batch.num_rounds,
        num_loops=3,
        model=model,
        key=jax.random.key(0),
    )
    answers = log_softmax(output.answer_logits)[np.arange(3), EXAMPLES.answer]
    rounds = slow_iteration_loss(output.round_logits, np.asarray(batch.rounds))
    expected = 10.0 * (-answers.mean() + round_weight * rounds)
    assert float(total) == pytest.approx(expected, rel=1e-4)
    assert float(parts["loss"]) == float(total)
    assert float(parts["loss_answer"]) == pytest.approx(-answers.mean(), rel=1e-4)


def test_the_objective_with_an_offset_is_that_of_chains_with_the_offset():
    task = TASKS["lis"](group=2, smallest=10, number_range=30)
    examples = task.sample(np.random.default_rng(0), np.array([5, 3, 6]))
    model = ModelConfig(input_injection="feedback", **SMALL)
    params = init_params(TrainConfig(model=model))
    batch = jax.tree.map(jnp.asarray, looped_batch(examples, task, 3))
    key = jax.random.key(3)
    settings = {"num_loops": 3, "model": model}
    total, _ = looped_objective(
        params,
        batch,
        key,
        jnp.ones(()),
        task=task,
        **settings,
        loss=LossConfig(max_value_offset={"lis": 20}),
    )
    offset = sample_value_offset(jax.random.split(key, 4)[2], batch.rounds, 20)
    by = np.asarray(offset.by)
    assert by.any() and not offset.min.any()
    is_number = batch.rounds >= FIRST_NUMBER
    rounds = np.where(is_number, batch.rounds + by[None, :, None], batch.rounds)
    scratchpad = task.scratchpad(batch.problem, 3)
    start = scratchpad.initial
    start = jnp.where(start >= FIRST_NUMBER, start + by[:, None], start)
    output = run_looped(
        params,
        batch.problem,
        batch.num_rounds,
        **settings,
        scratchpad=scratchpad._replace(initial=start),
        teacher=TeacherForcing(rounds, jnp.ones((3, 3), bool)),
        key=key,
    )
    answers = log_softmax(output.answer_logits)
    answered = -answers[np.arange(3), examples.answer + by].mean()
    expected = answered + slow_iteration_loss(output.round_logits, rounds)
    assert float(total) == pytest.approx(expected, rel=1e-4)


def test_the_decoders_objective_is_its_loss_times_the_tasks_weight():
    model = ModelConfig(kind="decoder", **SMALL)
    params = init_params(TrainConfig(model=model))
    batch = jax.tree.map(jnp.asarray, decoder_batch(EXAMPLES, TASK))
    inputs = params, batch, jax.random.key(0), jnp.ones(())
    total, _ = decoder_objective(
        *inputs,
        task=TASK,
        num_loops=3,
        model=model,
        loss=LossConfig(task_weights=WEIGHTS),
    )
    logits, _ = run_decoder(params, batch.tokens[:, :-1], model=model)
    expected = 10.0 * float(decoder_loss(logits, batch))
    assert float(total) == pytest.approx(expected, rel=1e-6)
