"""Round feedback: what an iteration sees of the rounds before it, and who wrote them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.models.feedback import MemoryState, TeacherForcing
from relay_jax.models.registry import make_model
from relay_jax.models.scratchpad import read_round
from relay_jax.vocabulary import FIRST_NUMBER, PAD
from tests.looped_setups import CONFIGS, SMALL, make_batch, make_params, run


@pytest.mark.parametrize(
    ("name", "task_name"),
    [("feedback", "lis"), ("differences", "edit_distance"), ("soft", "arithmetic")],
)
def test_a_forced_round_counts_only_where_it_differs(name, task_name):
    """Where the teacher has what the model predicts, or forces nothing, nothing changes;
    where it has something else, later rounds do."""
    model, params = CONFIGS[name], make_params(CONFIGS[name])
    task, batch = make_batch(task_name, [2, 3, 3], 3)
    free = run(model, task, batch, 3, params)
    predicted, true = jax.vmap(read_round)(free.rounds), jnp.asarray(batch.rounds)
    always, never = jnp.ones((3, 3), bool), jnp.zeros((3, 3), bool)

    def forced(rounds, where):
        teacher = TeacherForcing(rounds, where)
        return run(model, task, batch, 3, params, teacher=teacher)

    if name != "soft":  # soft feedback carries more than the most likely tokens
        same = forced(predicted, always)
        np.testing.assert_array_equal(free.rounds, same.rounds)
    np.testing.assert_array_equal(free.rounds, forced(true, never).rounds)
    other = forced(true, always)
    np.testing.assert_array_equal(free.rounds[0], other.rounds[0])
    assert np.abs(free.confidence[1:] - other.confidence[1:]).max() > 1e-4


@pytest.mark.parametrize("shows_problem", [False, True])
def test_attention_sees_the_memory_its_boundary_pad_and_the_problem_if_shown(
    shows_problem,
):
    model = dataclasses.replace(SMALL, input_injection="feedback")
    task, batch = make_batch("edit_distance", [2], 2)
    problem = jnp.asarray(batch.problem)
    scratchpad = task.scratchpad(problem, 2)._replace(shows_problem=shows_problem)
    bound = make_model(model).bind({"params": make_params(model)})
    num = FIRST_NUMBER
    tokens = jnp.array([[PAD, PAD, PAD, num, PAD, PAD, PAD, num + 1, num]])
    width = problem.shape[1]
    tokens = jnp.pad(tokens, ((0, 0), (width - 9, 0)))
    _, seen = bound.read(
        MemoryState(tokens), None, problem, scratchpad.pointers[0], scratchpad
    )
    by_memory = np.array([0, 0, 1, 1, 0, 0, 1, 1, 1], bool)
    by_memory = np.pad(by_memory, (width - 9, 0))
    expected = by_memory | (np.asarray(problem[0]) != PAD) * shows_problem
    np.testing.assert_array_equal(seen[0], expected)


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


def test_pointers_are_read_by_vectors_of_their_kind():
    """Equal columns differ by their pointers alone; 0 points at nothing."""
    model = dataclasses.replace(SMALL, input_injection="feedback")
    task, batch = make_batch("edit_distance", [2], 2)
    problem = jnp.asarray(batch.problem)
    scratchpad = task.scratchpad(problem, 2)
    params = make_params(model)
    bound = make_model(model).bind({"params": params})
    memory = MemoryState(jnp.full(problem.shape, FIRST_NUMBER))
    pointers = jnp.zeros((*problem.shape, 2), jnp.int32)
    pointers = pointers.at[0, 1, 0].set(3).at[0, 2, 1].set(5)
    x, _ = bound.read(memory, None, problem, pointers, scratchpad)
    plain, _ = bound.read(memory, None, problem, pointers * 0, scratchpad)
    expected = np.zeros(x.shape[1:])
    expected[1], expected[2] = params["marks"][0, 3], params["marks"][1, 5]
    np.testing.assert_allclose((x - plain)[0], expected, atol=1e-5)
