"""Rounds trained independently: together they are the whole chains."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.config import LossConfig, ModelConfig, TrainConfig
from relay_jax.data.alignment import looped_batch
from relay_jax.tasks import TASKS
from relay_jax.training.objective import looped_objective
from relay_jax.training.sampled_rounds import (
    gather_rounds,
    sample_rounds,
    sampled_scratchpad,
)
from relay_jax.training.step import init_params

SMALL = {"num_layers": 1, "dim": 16, "mlp_dim": 16, "num_numbers": 64, "dropout": 0.0}


@pytest.mark.parametrize(
    ("name", "options", "length", "changes"),
    [
        pytest.param(
            *("arithmetic", {"modulus": 5}, 3, {"feedback": "soft"}),
            marks=pytest.mark.slow,
        ),
        ("edit_distance", {}, 3, {"differences": True, "number_code": "digits"}),
        ("lis", {"group": 3, "smallest": 10, "number_range": 20}, 8, {}),
    ],
)
def test_all_rounds_one_by_one_are_the_whole_chain(name, options, length, changes):
    """In a batch that has room for a fourth, three rounds are sampled of chains of three:
    each of them once. Loss and gradient are those of the whole chains."""
    task = TASKS[name](**options)
    examples = task.sample(np.random.default_rng(0), np.full(4, length))
    np.testing.assert_array_equal(examples.num_rounds, 3)
    model = ModelConfig(input_injection="feedback", **SMALL | changes)
    params = init_params(TrainConfig(model=model))
    settings = {"task": task, "model": model}
    settings["loss"] = LossConfig(max_value_offset={"lis": 20}, answer_weight=0.3)
    few, found = task.round_size(length) + 1, []
    gradient = jax.jit(
        functools.partial(
            jax.grad(looped_objective, has_aux=True), num_loops=3, **settings
        )
    )
    for loops, columns in ((3, 0), (3, few), (4, few)):
        batch = looped_batch(examples, task, loops, columns=columns)
        assert batch.rounds.shape[-1] == columns or not columns
        key, forcing = jax.random.key(3), jnp.ones(())
        one = gradient(params, batch, key, forcing)
        found.append(jax.tree.map(np.asarray, one))
    assert found[0][1]["loss_answer"] > 0 and found[0][1]["loss_rounds"] > 0
    for each in found[1:]:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            found[0],
            each,
        )


def test_every_round_is_sampled_equally_often():
    num_rounds = np.array([1, 4, 6])
    sampled = np.asarray(
        jax.vmap(lambda key: sample_rounds(key, num_rounds, 3))(
            jax.random.split(jax.random.key(0), 3000)
        )
    )
    assert np.all(np.diff(sampled, axis=-1) >= 0)
    assert np.all(np.diff(sampled[:, 2], axis=-1) > 0)  # of 6, never the same twice
    for chain, num in enumerate(num_rounds):
        counts = np.bincount(sampled[:, chain].ravel(), minlength=num)
        assert len(counts) == num and np.all(np.abs(counts / counts.mean() - 1) < 0.1)


def test_sampled_rounds_become_chains_in_the_drawn_order():
    values = np.arange(12).reshape(4, 3)  # rounds 0..3 of chains 0, 1 and 2
    sampled = jnp.array([[0, 2], [1, 3], [0, 1]])
    np.testing.assert_array_equal(gather_rounds(values, sampled), [[0, 6, 4, 10, 2, 5]])


def test_the_memory_before_a_sampled_round_has_the_true_rounds_before_it(memories):
    task = TASKS["edit_distance"]()
    examples = task.sample(np.random.default_rng(0), np.array([3, 4, 4]))
    batch = jax.tree.map(jnp.asarray, looped_batch(examples, task, 4))
    scratchpad = task.scratchpad(batch.problem, 4)
    sampled = jnp.array([[0, 2], [1, 3], [0, 3]])
    found = sampled_scratchpad(scratchpad, batch.rounds, sampled)
    expected = memories(scratchpad, batch.rounds)
    rows = [(chain, int(t)) for chain in range(3) for t in sampled[chain]]
    for row, (chain, t) in enumerate(rows):
        np.testing.assert_array_equal(found.initial[row], expected[t][chain])
        np.testing.assert_array_equal(
            found.pointers[0, row], scratchpad.pointers[t, chain]
        )
