"""The looped model: one block with shared parameters, right-aligned columns, own T."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.models.looped import select_iteration
from relay_jax.models.registry import LOOPED_MODELS, make_model
from relay_jax.training.losses import iteration_loss
from tests.looped_setups import CONFIGS, SMALL, make_batch, make_params, run


@pytest.mark.parametrize(
    ("name", "task_name"),
    [
        ("paper", "lis"),
        ("bias", "edit_distance"),
        ("feedback", "lis"),
        ("soft", "arithmetic"),
        ("differences", "edit_distance"),
    ],
)
def test_iterations_past_the_rounds_of_an_example_change_nothing(name, task_name):
    """The first T of T' > T iterations are the T iterations, and each answer is read
    after the example's own T, not after the last iteration."""
    model, params = CONFIGS[name], make_params(CONFIGS[name])
    lengths = [4, 8, 2] if task_name == "lis" else [2, 3, 1]
    task, batch = make_batch(task_name, lengths, 3)
    _, longer = make_batch(task_name, lengths, 5)
    assert batch.num_rounds.tolist() == [2, 3, 1]
    few = run(model, task, batch, 3, params)
    many = run(model, task, longer, 5, params)
    np.testing.assert_array_equal(few.rounds, many.rounds[:3])
    np.testing.assert_allclose(few.confidence, many.confidence[:3], atol=1e-5)
    np.testing.assert_allclose(few.answer_logits, many.answer_logits, atol=1e-4)


def test_select_iteration_takes_the_last_one_of_each_example():
    last = jnp.arange(4)[:, None, None] * 10 + jnp.arange(3)[None, :, None]  # [4, 3, 1]
    selected = select_iteration(last, jnp.array([1, 4, 2]))
    np.testing.assert_array_equal(selected, [[[0]], [[31]], [[12]]])
    selected = select_iteration(last[..., 0], jnp.array([1, 4, 2]))
    np.testing.assert_array_equal(selected, [[0], [31], [12]])


def test_the_hidden_state_alone_passes_from_iteration_to_iteration():
    """The paper's loop by hand: embed once, apply the block T times, two heads."""
    model, params = SMALL, make_params(SMALL)
    task, batch = make_batch("edit_distance", [3, 2], 3)
    output = run(model, task, batch, 3, params)
    bound = make_model(model).bind({"params": params})
    problem = jnp.asarray(batch.problem)
    hidden = bound.problem_embedding()[problem]
    for t in range(3):
        hidden = bound.block(hidden, problem != 0, False)
        rounds = jnp.argmax(hidden @ bound.round_head().T, axis=-1)
        np.testing.assert_array_equal(output.rounds[t], rounds)
        for b in np.flatnonzero(batch.num_rounds == t + 1):
            answer = hidden[b, -1] @ bound.answer_head().T
            np.testing.assert_allclose(output.answer_logits[b], answer, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_depend_neither_on_the_iterations_nor_on_remat(name):
    model = CONFIGS[name]
    task, batch = make_batch("edit_distance", [2, 3], 3)

    def shapes(config, num_loops):
        inputs = batch.problem, batch.num_rounds
        if config.uses_feedback:
            inputs += (task.scratchpad(jnp.asarray(batch.problem), num_loops),)
        init = make_model(config).init
        key = jax.random.key(0)
        tree = jax.eval_shape(lambda k: init(k, *inputs, num_loops=num_loops), key)
        return jax.tree_util.tree_leaves_with_path(tree)

    remat = dataclasses.replace(model, remat=True)
    assert shapes(model, 3) == shapes(model, 7) == shapes(remat, 3)


SOFT = pytest.param("soft", marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["paper", SOFT, "differences"])
def test_remat_changes_no_gradient(name):
    model, params = CONFIGS[name], make_params(CONFIGS[name])
    task, batch = make_batch("lis", [4, 7], 3)

    def loss(params, model):
        output = run(model, task, batch, 3, params, key=jax.random.key(1))
        return jnp.mean(jnp.square(output.round_logits))

    model = dataclasses.replace(model, dropout=0.0)
    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    plain = gradient(params, model)
    saved = gradient(params, dataclasses.replace(model, remat=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), plain, saved)


@pytest.mark.parametrize("name", ["paper", "bias", "soft", "differences"])
def test_left_padding_changes_nothing(name):
    """Padded columns are masked as keys, and only relative positions count."""
    model, params = CONFIGS[name], make_params(CONFIGS[name])
    task, batch = make_batch("edit_distance", [3, 2], 3, width=12)
    _, wider = make_batch("edit_distance", [3, 2], 3, width=17)
    near, distant = (run(model, task, b, 3, params) for b in (batch, wider))
    trained = batch.mask[0]
    np.testing.assert_array_equal(
        np.where(trained, near.rounds[0], 0),
        np.where(trained, distant.rounds[0][:, 5:], 0),
    )
    np.testing.assert_allclose(near.answer_logits, distant.answer_logits, atol=2e-4)


@pytest.mark.parametrize("name", ["paper", "feedback", SOFT, "differences"])
def test_rounds_are_predicted_in_the_last_columns(name):
    """With few columns the same tokens are predicted there: rounds are right-aligned."""
    model, params = CONFIGS[name], make_params(CONFIGS[name])
    task, batch = make_batch("edit_distance", [3, 2], 3, width=12)
    every = run(model, task, batch, 3, params)
    few = run(model, task, batch, 3, params, 6)
    assert few.rounds.shape == (3, 2, 6)
    np.testing.assert_array_equal(few.rounds[0], every.rounds[0][:, 6:])
    np.testing.assert_allclose(few.confidence[0], every.confidence[0][:, 6:], atol=1e-5)


@pytest.mark.parametrize("name", ["paper", "differences"])
def test_masked_positions_get_no_gradient(name):
    """Every position with M_t = 1 is trained, and no other; none past a chain's T."""
    model, params = CONFIGS[name], make_params(CONFIGS[name])
    task, batch = make_batch("arithmetic", [1, 3], 3)
    output = run(model, task, batch, 3, params, key=jax.random.key(1))

    def loss(logits):
        return iteration_loss(logits, batch.rounds, batch.mask, batch.num_rounds)

    gradient = jax.grad(loss)(output.round_logits)
    zero = np.all(np.asarray(gradient) == 0, axis=-1)
    np.testing.assert_array_equal(zero, ~batch.mask)
    assert zero[1:, 0].all()  # the first example has a single round


def test_settings_that_do_not_go_together_have_no_model():
    model = dataclasses.replace(SMALL, differences=True)
    with pytest.raises(ValueError) as error:
        make_model(model)
    assert str(error.value) == (
        "no looped model has input_injection, feedback and differences = hidden, "
        "discrete, True; valid are hidden, discrete, False; feedback, discrete, False; "
        "feedback, soft, False; feedback, discrete, True"
    )
    for name, config in CONFIGS.items():
        assert type(make_model(config)) in LOOPED_MODELS.values(), name
