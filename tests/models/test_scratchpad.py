"""The rules of a scratchpad, drawn."""

import jax.numpy as jnp
import numpy as np

from relay_jax.models.scratchpad import read_round, write_memory, write_values
from relay_jax.vocabulary import PAD

MEMORY = jnp.array([[PAD, PAD, PAD, 20, 22, 24, 26, 8]])
ROUND = jnp.array([[20, 21, 25, 8]])  # in the last four columns
COPY_FROM = jnp.array([[-1, -1, 7, -1, 4, 5, 6, 4]])
CONSTANTS = jnp.array([[-1, -1, -1, 23, -1, -1, -1, 9]])  # in the last, over a copy
AFTER = [[PAD, PAD, 8, 23, 20, 21, 25, 9]]


def test_a_round_begins_after_the_boundary_pad():
    predicted = jnp.array([[7, 7, PAD, 5, PAD, 3, 4], [1, 2, 3, 4, 5, 6, 7]])
    expected = [[PAD, PAD, PAD, PAD, PAD, 3, 4], [1, 2, 3, 4, 5, 6, 7]]
    np.testing.assert_array_equal(read_round(predicted), expected)


def test_the_memory_after_a_round_is_as_drawn():
    memory = write_memory(MEMORY, ROUND, COPY_FROM, CONSTANTS)
    np.testing.assert_array_equal(memory, AFTER)


def test_columns_count_from_the_right_however_few_are_predicted():
    every = jnp.pad(ROUND, ((0, 0), (4, 0)))
    memory = write_memory(MEMORY, every, COPY_FROM, CONSTANTS)
    np.testing.assert_array_equal(memory, AFTER)


def test_vectors_are_aligned_as_their_tokens_are():
    table = jnp.stack([jnp.arange(30.0), -jnp.arange(30.0)], axis=1)
    vectors = table[MEMORY], table[ROUND], table[jnp.maximum(CONSTANTS, 0)]
    memory = write_values(*vectors, COPY_FROM, CONSTANTS)
    np.testing.assert_array_equal(memory, table[jnp.array(AFTER)])
