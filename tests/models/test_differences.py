"""Numbers as differences: what they are relative to, and which can be predicted."""

import jax.numpy as jnp
import numpy as np

from relay_jax.models.differences import nearest_number, shift_number_logits
from relay_jax.models.feedback import MemoryState
from relay_jax.models.layers import MASK_VALUE
from relay_jax.models.registry import make_model
from relay_jax.vocabulary import COMMA, FIRST_NUMBER, PAD
from tests.looped_setups import CONFIGS, make_params

NUM = FIRST_NUMBER
MEMORY = jnp.array([[PAD, NUM + 3, NUM + 5, COMMA, NUM + 4, PAD]])


def test_the_reference_is_the_nearest_number_on_the_left():
    number, exists = nearest_number(MEMORY)
    np.testing.assert_array_equal(exists, [[0, 1, 1, 1, 1, 1]])
    np.testing.assert_array_equal(number[0, 1:], [3, 5, 5, 4, 4])


def test_only_numbers_within_the_largest_step_can_be_predicted():
    symbols, steps = np.arange(NUM) / 7, np.array([10.0, 20.0, 30.0])  # -1, 0, +1
    number_logits = np.linspace(1, 2, 6)
    logits = jnp.asarray(np.tile([*symbols, *number_logits], (1, 6, 1)), jnp.float32)
    each = jnp.tile(jnp.asarray(steps, jnp.float32), (1, 6, 1))
    shifted = shift_number_logits(logits, each, nearest_number(MEMORY))
    np.testing.assert_allclose(shifted[..., :NUM], logits[..., :NUM])
    none = MASK_VALUE
    expected = [
        number_logits,  # without a reference, numbers keep their own logits
        [none, none, 10, 20, 30, none],  # relative to 3
        [none, none, none, none, 10, 20],  # relative to 5: there is no 6
        [none, none, none, none, 10, 20],
        [none, none, none, 10, 20, 30],
        [none, none, none, 10, 20, 30],
    ]
    np.testing.assert_allclose(shifted[0, :, NUM:], expected, rtol=1e-6)


def test_numbers_are_read_as_steps_from_their_left():
    """Two rows with the same steps look alike for any numbers."""
    model = CONFIGS["differences"]
    bound = make_model(model).bind({"params": make_params(model)})

    def embedded(*numbers):
        tokens = jnp.array([[PAD, *(NUM + n for n in numbers), COMMA]])
        state = MemoryState(tokens)
        return bound.embed_memory(state, nearest_number(tokens))

    row = embedded(10, 12, 11, 20)
    np.testing.assert_array_equal(row, embedded(30, 32, 31, 40))
    # Steps beyond the largest one, 4, look like it.
    np.testing.assert_array_equal(row, embedded(10, 12, 11, 15))
    assert np.abs(row - embedded(10, 12, 11, 14)).max() > 0.1
