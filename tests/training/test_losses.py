"""The losses against an independent, loop-by-loop reading of Eqs. 6-10."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.config import LossConfig, ModelConfig, TrainConfig
from relay_jax.data.alignment import decoder_batch, looped_batch
from relay_jax.models.decoder import Decoder
from relay_jax.models.feedback import ValueOffset, sample_rounds, write_memory
from relay_jax.models.looped import TeacherForcing, run_looped
from relay_jax.tasks import TASKS
from relay_jax.training.losses import (
    answer_loss,
    decoder_loss,
    iteration_loss,
    looped_loss,
    offset_chains,
    sample_value_offset,
)
from relay_jax.training.step import init_params
from relay_jax.vocabulary import FIRST_NUMBER, PAD

SMALL = {"num_layers": 1, "dim": 16, "mlp_dim": 16, "num_numbers": 64, "dropout": 0.0}
TASK = TASKS["edit_distance"]()
EXAMPLES = TASK.sample(np.random.default_rng(0), np.array([3, 1, 2]))


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def slow_iteration_loss(logits, rounds):
    """For every example, round and position by itself; M_t is read off the round."""
    log_p, losses = log_softmax(logits), []
    for b in range(rounds.shape[1]):
        per_round = []
        for t in range(rounds.shape[0]):
            tokens = [int(i) for i in rounds[t, b] if i != PAD]
            if not tokens:
                continue
            width = rounds.shape[2]
            first = width - len(tokens)
            terms = [-log_p[t, b, first + i, word] for i, word in enumerate(tokens)]
            if first > 0:
                terms.append(-log_p[t, b, first - 1, PAD])  # the boundary pad
            per_round.append(np.mean(terms))
        losses.append(np.mean(per_round))
    return np.mean(losses)


def test_iteration_loss_reads_as_in_the_paper():
    batch = looped_batch(EXAMPLES, TASK, 4)
    shape = (*batch.rounds.shape, 20)
    rounds = np.where(batch.rounds != PAD, batch.rounds % 19 + 1, PAD)
    logits = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    fast = iteration_loss(
        jnp.asarray(logits),
        jnp.asarray(rounds),
        jnp.asarray(batch.mask),
        jnp.asarray(batch.num_rounds),
    )
    assert float(fast) == pytest.approx(slow_iteration_loss(logits, rounds), rel=1e-5)


@pytest.mark.parametrize("round_weight", [0.0, 1.0, 0.25])
def test_total_loss_weighs_its_parts(round_weight):
    model = ModelConfig(**SMALL)
    params = init_params(TrainConfig(model=model))
    batch = jax.tree.map(jnp.asarray, looped_batch(EXAMPLES, TASK, 3))
    settings = LossConfig(
        round_weight=round_weight, task_weights={"edit_distance": 10.0, "lis": 5.0}
    )
    total, parts = looped_loss(
        params,
        batch,
        jax.random.key(0),
        jnp.ones(()),
        task=TASK,
        num_loops=3,
        model=model,
        loss=settings,
    )
    spoken = run_looped(
        params,
        batch.problem,
        batch.num_rounds,
        task=TASK,
        num_loops=3,
        model=model,
        teacher=TeacherForcing(batch.rounds, jnp.ones((3, 3), bool)),
        key=jax.random.key(0),
    )
    answers = log_softmax(spoken.answer_logits)[np.arange(3), EXAMPLES.answer]
    told = slow_iteration_loss(spoken.round_logits, np.asarray(batch.rounds))
    expected = 10.0 * (-answers.mean() + round_weight * told)
    assert float(total) == pytest.approx(expected, rel=1e-4)
    assert float(parts["loss_answer"]) == pytest.approx(-answers.mean(), rel=1e-4)


def test_shifted_values_are_those_of_a_shifted_chain():
    """The loss with a shift is the loss of a chain that counts from there."""
    task = TASKS["lis"](group=2, smallest=10, number_range=30)
    examples = task.sample(np.random.default_rng(0), np.array([5, 3, 6]))
    model = ModelConfig(input_injection="feedback", **SMALL)
    params = init_params(TrainConfig(model=model))
    batch = jax.tree.map(jnp.asarray, looped_batch(examples, task, 3))
    key = jax.random.key(3)
    settings = {"task": task, "num_loops": 3, "model": model}
    total, _ = looped_loss(
        params,
        batch,
        key,
        jnp.ones(()),
        **settings,
        loss=LossConfig(max_value_offset={"lis": 20}),
    )
    drawn = sample_value_offset(jax.random.split(key, 4)[2], batch.rounds, 20)
    shift = np.asarray(drawn.by)
    assert shift.any() and not drawn.least.any()
    rounds = np.where(
        batch.rounds >= FIRST_NUMBER, batch.rounds + shift[None, :, None], batch.rounds
    )
    spoken = run_looped(
        params,
        batch.problem,
        batch.num_rounds,
        **settings,
        teacher=TeacherForcing(rounds, jnp.ones((3, 3), bool)),
        shift=drawn,
        key=key,
    )
    answers = log_softmax(spoken.answer_logits)
    answered = -answers[np.arange(3), examples.answer + shift].mean()
    expected = answered + slow_iteration_loss(spoken.round_logits, rounds)
    assert float(total) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "length", "changes"),
    [
        ("arithmetic", {"modulus": 5}, 3, {"feedback": "soft"}),
        ("edit_distance", {}, 3, {"differences": True, "number_code": "digits"}),
        ("lis", {"group": 3, "smallest": 10, "number_range": 20}, 8, {}),
    ],
)
def test_all_rounds_drawn_one_by_one_are_the_whole_chain(
    name, options, length, changes
):
    """In a batch that has room for a fourth, three rounds are drawn of chains of three:
    each of them once."""
    task = TASKS[name](**options)
    examples = task.sample(np.random.default_rng(0), np.full(4, length))
    np.testing.assert_array_equal(examples.num_rounds, 3)
    model = ModelConfig(input_injection="feedback", **SMALL | changes)
    params = init_params(TrainConfig(model=model))
    settings = {"task": task, "model": model}
    settings["loss"] = LossConfig(max_value_offset={"lis": 20}, answer_weight=0.3)
    few, found = task.round_size(length) + 1, []
    for loops, columns in ((3, 0), (3, few), (4, few)):
        batch = looped_batch(examples, task, loops, columns=columns)
        assert batch.rounds.shape[-1] == columns or not columns
        gradient = jax.grad(looped_loss, has_aux=True)
        key, forcing = jax.random.key(3), jnp.ones(())
        one = gradient(params, batch, key, forcing, num_loops=3, **settings)
        found.append(jax.tree.map(np.asarray, one))
    assert found[0][1]["loss_answer"] > 0 and found[0][1]["loss_rounds"] > 0
    for each in found[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            found[0],
            each,
        )


def test_every_round_is_drawn_as_often():
    num_rounds = np.array([1, 4, 6])
    drawn = np.asarray(
        jax.vmap(lambda key: sample_rounds(key, num_rounds, 3))(
            jax.random.split(jax.random.key(0), 3000)
        )
    )
    assert np.all(np.diff(drawn, axis=-1) >= 0)
    assert np.all(np.diff(drawn[:, 2], axis=-1) > 0)  # of 6, never the same twice
    for chain, most in enumerate(num_rounds):
        counts = np.bincount(drawn[:, chain].ravel(), minlength=most)
        assert len(counts) == most and np.all(np.abs(counts / counts.mean() - 1) < 0.1)


def test_a_chain_without_its_answer_has_no_answer_loss():
    logits = jax.random.normal(jax.random.key(0), (3, 9))
    both = answer_loss(logits[:2], jnp.array([4, 5]))
    cut = answer_loss(logits, jnp.array([4, 5, PAD]))
    assert float(cut) == pytest.approx(float(both) * 2 / 3, rel=1e-6)
    gradient = jax.grad(lambda x: answer_loss(x, jnp.array([PAD, PAD, PAD])))(logits)
    np.testing.assert_array_equal(gradient, 0)


def test_half_of_the_examples_are_not_shifted():
    rounds = FIRST_NUMBER + np.tile(np.arange(1, 6), (1, 4000, 1))
    by, least = sample_value_offset(jax.random.key(0), rounds, 9)
    counts = np.bincount(by, minlength=10)
    assert len(counts) == 10 and abs(counts[0] - 2200) < 150
    assert np.all(np.abs(counts[1:] - 200) < 60) and not least.any()
    by, least = map(np.asarray, sample_value_offset(jax.random.key(0), rounds, 9, 0.75))
    assert not least[by == 0].any()
    counts = np.bincount(least[by > 0], minlength=6)  # a quarter without, 1..5
    assert len(counts) == 6 and np.all(np.abs(counts - [450, *[270] * 5]) < 80)


def test_shift_moves_numbers_alone():
    tokens = jnp.array([[PAD, FIRST_NUMBER - 1, FIRST_NUMBER, FIRST_NUMBER + 3]])
    for least, moved in ((0, [5, 8]), (1, [0, 8]), (3, [0, 8]), (4, [0, 3])):
        shift = ValueOffset(jnp.array([5]), jnp.array([least]))
        expected = [PAD, FIRST_NUMBER - 1, *(FIRST_NUMBER + n for n in moved)]
        np.testing.assert_array_equal(shift.apply(tokens), [expected])


def test_what_is_trained_beyond_a_gap_follows_from_the_memory():
    """Every value that may be trained is one more than the largest of smaller numbers,
    in the raised memory and, by this rule, in its own round; without a gap all are. So
    is the answer the largest of all."""
    task = TASKS["lis"](group=3, smallest=20, number_range=39)
    examples = task.sample(np.random.default_rng(0), np.full(64, 17))
    batch = jax.tree.map(jnp.asarray, looped_batch(examples, task, 6))
    shift = sample_value_offset(jax.random.key(0), batch.rounds, 20, 0.7)
    raised = jax.tree.map(np.asarray, offset_chains(batch, shift))
    space = task.scratchpad(batch.problem, 6)
    memory, checked = shift.apply(space.initial), []
    for t in range(6):
        held, said = np.asarray(memory), jnp.asarray(raised.rounds[t])
        for b, problem in enumerate(raised.problem):
            start = int(np.argmax(problem == task.token))  # where 0 is held
            values = {j: held[b, j] for j in range(start, start + 1 + 3 * t)}
            for place in range(3):
                j = start + 1 + min(3 * t + place, 16)
                smaller = [
                    values[k] for k in values if k > start and problem[k] < problem[j]
                ]
                values[j] = max(smaller, default=values[start]) + 1
                column = said.shape[1] - 4 + place
                if raised.mask[t, b, column]:
                    assert said[b, column] == values[j]
                    checked.append((int(shift.least[b]), values[j] - FIRST_NUMBER))
                else:
                    assert shift.least[b] > 0
            if t == 5 and raised.answer[b] != PAD:
                assert raised.answer[b] == max(values.values())
        memory = write_memory(memory, said, space.copy_from[t], space.constants[t])
    beyond = [value for least, value in checked if 0 < least < value]
    assert len(beyond) > 100 and len(checked) > 0.8 * 64 * 18
    assert 0 < np.sum(raised.answer == PAD) < 16


def test_decoder_loss_trains_chain_and_answer_only():
    model = ModelConfig(kind="decoder", **SMALL)
    params = init_params(TrainConfig(model=model))
    batch = jax.tree.map(jnp.asarray, decoder_batch(EXAMPLES, TASK))
    total, _ = decoder_loss(
        params,
        batch,
        jax.random.key(0),
        jnp.ones(()),
        task=TASK,
        num_loops=3,
        model=model,
        loss=LossConfig(task_weights={"edit_distance": 10.0}),
    )
    terms = []
    for row, problem in zip(np.asarray(batch.tokens), EXAMPLES.problem):
        text = [int(i) for i in row if i != PAD]
        logits, _ = Decoder(model).apply({"params": params}, jnp.asarray([text]))
        log_p = log_softmax(logits)[0]
        start = int((problem != PAD).sum())
        terms += [-log_p[i - 1, text[i]] for i in range(start, len(text))]
    assert float(total) == pytest.approx(10.0 * np.mean(terms), rel=1e-4)
