"""The looped model: loops are a prefix of more loops, masks, feedback, teacher."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.config import ModelConfig, PositionConfig, TrainConfig
from relay_jax.data.alignment import looped_batch
from relay_jax.models.feedback import read_round
from relay_jax.models.looped import LoopedModel, TeacherForcing, run_looped
from relay_jax.tasks import TASKS
from relay_jax.training.losses import iteration_loss
from relay_jax.training.step import init_params
from relay_jax.vocabulary import PAD

BIAS = PositionConfig(
    scheme="relative_bias", directional_heads=True, log_length_scaling=True
)
SMALL = ModelConfig(num_layers=2, dim=16, mlp_dim=32, num_heads=4, num_numbers=64)
CONFIGS = {
    "paper": SMALL,
    "problem": dataclasses.replace(SMALL, input_injection="problem", position=BIAS),
    "bias": dataclasses.replace(SMALL, position=BIAS),
    "feedback": dataclasses.replace(SMALL, input_injection="feedback", position=BIAS),
    "soft": dataclasses.replace(SMALL, input_injection="feedback", feedback="soft"),
    "differences": dataclasses.replace(
        SMALL, input_injection="feedback", differences=True, number_code="digits"
    ),
}
TASK_OPTIONS = {
    "arithmetic": {"modulus": 5},
    "edit_distance": {},
    "lis": {"group": 3, "smallest": 10, "number_range": 20},
}


def make_batch(name, lengths, num_loops, width=0):
    task = TASKS[name](**TASK_OPTIONS[name])
    examples = task.sample(np.random.default_rng(0), np.array(lengths))
    return task, looped_batch(examples, task, num_loops, width)


def make_params(model, seed=0):
    params = init_params(TrainConfig(model=model, seed=seed))
    # Zero-initialised biases would hide their position: give all parameters a value.
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    noisy = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)]
    return jax.tree.unflatten(tree, noisy)


@functools.partial(jax.jit, static_argnums=(0, 1, 3))
def run(model, task, batch, num_loops, params, **rest):
    return run_looped(
        params,
        batch.problem,
        batch.num_rounds,
        task=task,
        num_loops=num_loops,
        model=model,
        **rest,
    )


@pytest.mark.parametrize(
    ("name", "task_name"),
    [
        *(("paper", "lis"), ("problem", "arithmetic"), ("bias", "edit_distance")),
        *(
            ("feedback", "lis"),
            ("soft", "arithmetic"),
            ("differences", "edit_distance"),
        ),
    ],
)
def test_loops_are_a_prefix_of_more_loops(name, task_name):
    model, params = CONFIGS[name], make_params(CONFIGS[name])
    lengths = [4, 8, 2] if task_name == "lis" else [2, 3, 1]  # of 2, 3 and 1 rounds
    task, batch = make_batch(task_name, lengths, 3)
    _, longer = make_batch(task_name, lengths, 5)
    assert batch.num_rounds.tolist() == [2, 3, 1]
    few = run(model, task, batch, 3, params)
    many = run(model, task, longer, 5, params)
    np.testing.assert_array_equal(few.rounds, many.rounds[:3])
    np.testing.assert_allclose(few.confidence, many.confidence[:3], atol=1e-5)
    # Each answer is read after the example's own T, not after the last loop.
    np.testing.assert_allclose(few.answer_logits, many.answer_logits, atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_depend_neither_on_loops_nor_on_remat(name):
    model = CONFIGS[name]
    task, batch = make_batch("edit_distance", [2, 3], 3)
    scratchpad = task.scratchpad(jnp.asarray(batch.problem), 3)

    def shapes(config, num_loops):
        made = task.scratchpad(jnp.asarray(batch.problem), num_loops)
        made = made if config.input_injection == "feedback" else None
        init = LoopedModel(config).init
        rest = batch.problem, made, batch.num_rounds
        key = jax.random.key(0)
        tree = jax.eval_shape(lambda k: init(k, *rest, num_loops=num_loops), key)
        return jax.tree_util.tree_leaves_with_path(tree)

    assert scratchpad.copy_from.shape[0] == 3
    remat = dataclasses.replace(model, remat=True)
    assert shapes(model, 3) == shapes(model, 7) == shapes(remat, 3)


@pytest.mark.parametrize("name", ["paper", "soft", "differences"])
def test_remat_changes_no_gradient(name):
    model, params = CONFIGS[name], make_params(CONFIGS[name])
    task, batch = make_batch("lis", [4, 7], 3)

    def loss(params, model):
        spoken = run(model, task, batch, 3, params, key=jax.random.key(1))
        return jnp.mean(jnp.square(spoken.round_logits))

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
    near, far = (run(model, task, b, 3, params) for b in (batch, wider))
    seen = batch.mask[0]
    np.testing.assert_array_equal(
        np.where(seen, near.rounds[0], 0), np.where(seen, far.rounds[0][:, 5:], 0)
    )
    np.testing.assert_allclose(near.answer_logits, far.answer_logits, atol=2e-4)


@pytest.mark.parametrize("name", ["paper", "differences"])
def test_masked_rounds_get_no_gradient(name):
    model, params = CONFIGS[name], make_params(CONFIGS[name])
    task, batch = make_batch("arithmetic", [1, 3], 3)
    spoken = run(model, task, batch, 3, params, key=jax.random.key(1))

    def loss(logits):
        return iteration_loss(logits, batch.rounds, batch.mask, batch.num_rounds)

    gradient = jax.grad(loss)(spoken.round_logits)
    zero = np.all(np.asarray(gradient) == 0, axis=-1)
    np.testing.assert_array_equal(zero, ~batch.mask)
    assert zero[1:, 0].all()  # the first example has a single round


@pytest.mark.parametrize(
    ("name", "task_name"),
    [("feedback", "lis"), ("differences", "edit_distance"), ("soft", "arithmetic")],
)
def test_true_speech_needs_no_teacher(name, task_name):
    """Where the teacher says what the model says, forcing it changes nothing; where it
    says something else, it does."""
    model, params = CONFIGS[name], make_params(CONFIGS[name])
    task, batch = make_batch(task_name, [2, 3, 3], 3)
    free = run(model, task, batch, 3, params)
    heard = jax.vmap(read_round)(free.rounds)
    forced = TeacherForcing(heard, jnp.ones((3, 3), bool))
    same = run(model, task, batch, 3, params, teacher=forced)
    if name != "soft":  # soft feedback carries more than its most likely words
        np.testing.assert_array_equal(free.rounds, same.rounds)
    never = run(
        model,
        task,
        batch,
        3,
        params,
        teacher=forced._replace(
            rounds=jnp.asarray(batch.rounds), forced=jnp.zeros((3, 3), bool)
        ),
    )
    np.testing.assert_array_equal(free.rounds, never.rounds)
    true = run(
        model,
        task,
        batch,
        3,
        params,
        teacher=forced._replace(rounds=jnp.asarray(batch.rounds)),
    )
    np.testing.assert_array_equal(free.rounds[0], true.rounds[0])
    assert np.abs(free.confidence[1:] - true.confidence[1:]).max() > 1e-4


def test_read_round_ends_at_the_boundary_pad():
    said = jnp.array([[7, 7, PAD, 5, PAD, 3, 4], [1, 2, 3, 4, 5, 6, 7]])
    expected = [[0, 0, 0, 0, 0, 3, 4], [1, 2, 3, 4, 5, 6, 7]]
    np.testing.assert_array_equal(read_round(said), expected)


@pytest.mark.parametrize(("name", "reaches"), [("soft", True), ("feedback", False)])
def test_only_soft_feedback_is_differentiable_end_to_end(name, reaches):
    """The answer depends on the round head through what was fed back, and only so."""
    task, batch = make_batch("arithmetic", [3, 3], 3)
    model, params = CONFIGS[name], make_params(CONFIGS[name])

    def answer(head):
        changed = params | {"round_head": head}
        return jnp.square(run(model, task, batch, 3, changed).answer_logits).sum()

    gradient = jax.tree.leaves(jax.jit(jax.grad(answer))(params["round_head"]))
    assert any(np.abs(part).max() > 1e-6 for part in gradient) == reaches
