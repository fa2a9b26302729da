"""What all tasks share: chains arrive at their answers."""

import re

import numpy as np
import pytest

from relay_jax.tasks import TASKS
from relay_jax.vocabulary import COMMA, FIRST_NUMBER, PAD, SEP


@pytest.mark.parametrize("name", TASKS)
def test_a_chain_arrives_at_its_answer(name):
    task = TASKS[name]()
    length = np.random.default_rng(0).integers(1, 13, size=300)
    examples = task.sample(np.random.default_rng(1), length)
    answer = task.chain_answer(examples.rounds, examples.num_rounds)
    np.testing.assert_array_equal(answer, examples.answer)


@pytest.mark.parametrize("name", TASKS)
def test_a_chain_fits_its_size(name):
    task = TASKS[name]()
    for length in (1, 2, 3, 7, 12):
        examples = task.sample(np.random.default_rng(0), np.full(500, length))
        longest = np.sum(examples.rounds != PAD, axis=(1, 2)).max()
        assert 0.9 * task.chain_size(length) <= longest <= task.chain_size(length)


@pytest.mark.parametrize(
    ("name", "rounds", "answer"),
    [
        ("arithmetic", [[3, 4], [5], [6]], 5),  # the third is past its end
        ("arithmetic", [[3], [None]], None),
        ("edit_distance", [[9, 9, ","], [2, 4, ","]], 4),
        ("edit_distance", [[9, 9, ","], [2, 4]], 4),  # without its mark
        ("lis", [[1, 2, ";"], [1, 1, ";"], [7]], 2),
        ("lis", [[None], [None]], None),
    ],
)
def test_wrong_chains_have_answers_too(name, rounds, answer):
    marks = {",": COMMA, ";": SEP, None: PAD}

    def token(x):
        return marks[x] if x in marks else FIRST_NUMBER + x

    width = max(map(len, rounds))
    chain = [[token(x) for x in r] + [PAD] * (width - len(r)) for r in rounds]
    found = TASKS[name]().chain_answer(np.array([chain]), np.array([2]))
    assert found.tolist() == [token(answer)]


def test_numbers_whose_tokens_do_not_fit_are_errors():
    room = np.iinfo(np.int16).max - FIRST_NUMBER
    rng, length = np.random.default_rng(0), np.array([1, 2])
    fits = TASKS["lis"](number_range=room + 1).sample(rng, length)
    assert fits.problem.max() <= np.iinfo(np.int16).max and fits.problem.min() >= 0
    message = (
        f"lis: problems of length 2 contain numbers up to {room + 1}, but tokens can "
        f"only represent numbers up to {room}; use shorter problems or smaller numbers"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        TASKS["lis"](number_range=room + 2).sample(rng, length)
