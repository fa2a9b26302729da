"""The losses against an independent reading of Eqs. 6-10, one position at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.config import LossConfig, ModelConfig, TrainConfig
from relay_jax.data.alignment import decoder_batch, looped_batch
from relay_jax.models.decoder import Decoder, run_decoder
from relay_jax.models.looped import LoopedOutput
from relay_jax.tasks import TASKS
from relay_jax.training.losses import (
    answer_loss,
    decoder_loss,
    iteration_loss,
    looped_loss,
)
from relay_jax.training.step import init_params
from relay_jax.vocabulary import PAD
from tests.looped_setups import log_softmax, slow_iteration_loss

TASK = TASKS["edit_distance"]()
EXAMPLES = TASK.sample(np.random.default_rng(0), np.array([3, 1, 2]))


def small_batch(num_loops, vocab_size=20):
    """A batch with few tokens, and random logits for it."""
    batch = looped_batch(EXAMPLES, TASK, num_loops)
    rounds = np.where(batch.rounds != PAD, batch.rounds % (vocab_size - 1) + 1, PAD)
    answer = batch.answer % (vocab_size - 1) + 1
    batch = batch._replace(rounds=rounds, answer=answer)
    shape = (*rounds.shape, vocab_size)
    logits = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    return jax.tree.map(jnp.asarray, batch), jnp.asarray(logits)


def test_iteration_loss_is_that_of_the_paper():
    """The mean over chains, over each one's T rounds, over the positions with M_t = 1."""
    batch, logits = small_batch(num_loops=4)  # more than any chain has rounds
    loss = iteration_loss(logits, batch.rounds, batch.mask, batch.num_rounds)
    expected = slow_iteration_loss(logits, np.asarray(batch.rounds))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("round_weight", [0.0, 1.0, 0.25])
def test_looped_loss_is_the_answers_plus_lambda_times_the_iterations(round_weight):
    batch, logits = small_batch(num_loops=3)
    answer_logits = logits[0, :, 0] * 2
    output = LoopedOutput(batch.rounds, batch.mask * 1.0, logits, answer_logits)
    config = LossConfig(answer_weight=0.5, round_weight=round_weight)
    total, parts = looped_loss(output, batch, config)
    answer = -log_softmax(answer_logits)[np.arange(3), batch.answer].mean()
    rounds = slow_iteration_loss(logits, np.asarray(batch.rounds))
    expected = 0.5 * answer + round_weight * rounds
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert float(parts["loss_answer"]) == pytest.approx(answer, rel=1e-5)
    rounds = rounds if round_weight else 0.0
    assert float(parts["loss_rounds"]) == pytest.approx(rounds, rel=1e-5)


def test_a_chain_without_its_answer_has_no_answer_loss():
    logits = jax.random.normal(jax.random.key(0), (3, 9))
    both = answer_loss(logits[:2], jnp.array([4, 5]))
    cut = answer_loss(logits, jnp.array([4, 5, PAD]))
    assert float(cut) == pytest.approx(float(both) * 2 / 3, rel=1e-6)
    gradient = jax.grad(lambda x: answer_loss(x, jnp.array([PAD, PAD, PAD])))(logits)
    np.testing.assert_array_equal(gradient, 0)


def test_every_answer_has_its_own_weight():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 9)))
    answer, weight = np.array([4, 5, 6]), np.array([1, 3, 2])
    each = -log_softmax(logits)[np.arange(3), answer]
    loss = answer_loss(logits, jnp.asarray(answer), jnp.asarray(weight))
    assert float(loss) == pytest.approx((each * weight).mean(), rel=1e-5)


def test_a_text_of_a_problem_alone_has_no_loss():
    batch = jax.tree.map(jnp.asarray, decoder_batch(EXAMPLES, TASK))
    batch = batch._replace(trained=jnp.zeros_like(batch.trained))
    shape = (*batch.tokens[:, 1:].shape, 99)
    assert float(decoder_loss(jnp.zeros(shape), batch)) == 0


def test_decoder_loss_trains_chain_and_answer_only():
    model = ModelConfig(
        kind="decoder", num_layers=1, dim=16, mlp_dim=16, num_numbers=64, dropout=0.0
    )
    params = init_params(TrainConfig(model=model))
    batch = jax.tree.map(jnp.asarray, decoder_batch(EXAMPLES, TASK))
    logits, _ = run_decoder(params, batch.tokens[:, :-1], model=model)
    terms = []
    for row, problem in zip(np.asarray(batch.tokens), EXAMPLES.problem):
        text = [int(i) for i in row if i != PAD]
        alone, _ = Decoder(model).apply({"params": params}, jnp.asarray([text]))
        log_p = log_softmax(alone)[0]
        start = int((problem != PAD).sum())
        terms += [-log_p[i - 1, text[i]] for i in range(start, len(text))]
    loss = decoder_loss(logits, batch)
    assert float(loss) == pytest.approx(np.mean(terms), rel=1e-4)
