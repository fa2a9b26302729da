"""Value offsets: which numbers move, and what may be trained afterwards."""

import jax
import jax.numpy as jnp
import numpy as np

from relay_jax.data.alignment import looped_batch
from relay_jax.models.scratchpad import write_memory
from relay_jax.tasks import TASKS
from relay_jax.training.augment import (
    LoopedInputs,
    ValueOffset,
    offset_chains,
    offset_values,
    sample_value_offset,
)
from relay_jax.vocabulary import FIRST_NUMBER, PAD


def test_half_of_the_chains_have_no_offset():
    rounds = FIRST_NUMBER + np.tile(np.arange(1, 6), (1, 4000, 1))
    by, min_value = sample_value_offset(jax.random.key(0), rounds, 9)
    counts = np.bincount(by, minlength=10)
    assert len(counts) == 10 and abs(counts[0] - 2200) < 150
    assert np.all(np.abs(counts[1:] - 200) < 60) and not min_value.any()
    offset = sample_value_offset(jax.random.key(0), rounds, 9, 0.75)
    by, min_value = map(np.asarray, offset)
    assert not min_value[by == 0].any()
    counts = np.bincount(min_value[by > 0], minlength=6)  # a quarter without, 1..5
    assert len(counts) == 6 and np.all(np.abs(counts - [450, *[270] * 5]) < 80)


def test_an_offset_moves_numbers_alone():
    tokens = jnp.array([[PAD, FIRST_NUMBER - 1, FIRST_NUMBER, FIRST_NUMBER + 3]])
    for min_value, moved in ((0, [5, 8]), (1, [0, 8]), (3, [0, 8]), (4, [0, 3])):
        offset = ValueOffset(jnp.array([5]), jnp.array([min_value]))
        expected = [PAD, FIRST_NUMBER - 1, *(FIRST_NUMBER + n for n in moved)]
        np.testing.assert_array_equal(offset.apply(tokens), [expected])


def test_memory_and_rounds_move_together():
    """Rounds that are written into the memory fit what it starts from."""
    task = TASKS["edit_distance"]()
    examples = task.sample(np.random.default_rng(0), np.full(8, 3))
    batch = jax.tree.map(jnp.asarray, looped_batch(examples, task, 3))
    inputs = LoopedInputs(batch, task.scratchpad(batch.problem, 3))
    moved = offset_values(inputs, jax.random.key(0), 20, 0.0)
    by = np.asarray(moved.batch.answer - batch.answer)
    assert len(set(by.tolist())) > 2
    pairs = [
        (inputs.scratchpad.initial[None], moved.scratchpad.initial[None]),
        (inputs.scratchpad.constants, moved.scratchpad.constants),
        (batch.rounds, moved.batch.rounds),
    ]
    for before, after in pairs:
        is_number = np.asarray(before) >= FIRST_NUMBER
        assert is_number.any()
        np.testing.assert_array_equal(after - before, is_number * by[None, :, None])
    np.testing.assert_array_equal(moved.batch.mask, batch.mask)


def test_values_trained_beyond_a_gap_follow_from_the_memory():
    """Every value that may be trained is one more than the largest of smaller numbers,
    in the raised memory and, by this rule, in its own round; without a gap all are. So
    is the answer the largest of all."""
    task = TASKS["lis"](group=3, smallest=20, number_range=39)
    examples = task.sample(np.random.default_rng(0), np.full(64, 17))
    batch = jax.tree.map(jnp.asarray, looped_batch(examples, task, 6))
    offset = sample_value_offset(jax.random.key(0), batch.rounds, 20, 0.7)
    raised = jax.tree.map(np.asarray, offset_chains(batch, offset))
    scratchpad = task.scratchpad(batch.problem, 6)
    memory, checked = offset.apply(scratchpad.initial), []
    for t in range(6):
        start_values, predicted = np.asarray(memory), jnp.asarray(raised.rounds[t])
        for b, problem in enumerate(raised.problem):
            start = int(np.argmax(problem == task.token))  # where 0 stands
            values = {j: start_values[b, j] for j in range(start, start + 1 + 3 * t)}
            for slot in range(3):
                j = start + 1 + min(3 * t + slot, 16)
                smaller = [
                    values[k] for k in values if k > start and problem[k] < problem[j]
                ]
                values[j] = max(smaller, default=values[start]) + 1
                column = predicted.shape[1] - 4 + slot
                if raised.mask[t, b, column]:
                    assert predicted[b, column] == values[j]
                    checked.append((int(offset.min[b]), values[j] - FIRST_NUMBER))
                else:
                    assert offset.min[b] > 0
            if t == 5 and raised.answer[b] != PAD:
                assert raised.answer[b] == max(values.values())
        memory = write_memory(
            memory, predicted, scratchpad.copy_from[t], scratchpad.constants[t]
        )
    beyond = [value for min_value, value in checked if 0 < min_value < value]
    assert len(beyond) > 100 and len(checked) > 0.8 * 64 * 18
    assert 0 < np.sum(raised.answer == PAD) < 16
