"""LIS against all subsequences (short problems) and patience sorting (long ones)."""

import bisect
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.data.alignment import looped_batch
from relay_jax.tasks import Task
from relay_jax.tasks.lis import LongestIncreasingSubsequence, subsequence_lengths
from relay_jax.vocabulary import FIRST_NUMBER, LIS, PAD, SEP, TaskTokenizer

encode = TaskTokenizer(300).encode


def all_subsequences(numbers):
    """For each number, the longest of all increasing subsequences that end with it."""
    best = [1] * len(numbers)
    for positions in itertools.product([False, True], repeat=len(numbers)):
        chosen = [i for i, taken in enumerate(positions) if taken]
        if (
            all(numbers[i] < numbers[j] for i, j in itertools.pairwise(chosen))
            and chosen
        ):
            best[chosen[-1]] = max(best[chosen[-1]], len(chosen))
    return best


def patience(numbers):
    """The pile on which each card is laid."""
    tops, piles = [], []
    for number in numbers:
        pile = bisect.bisect_left(tops, number)
        tops[pile : pile + 1] = [number]
        piles.append(pile + 1)
    return piles


def numbers_of(problem):
    row = [int(i) for i in problem if i != PAD]
    assert row[0] == LIS and row[-1] == SEP and min(row[1:-1]) >= FIRST_NUMBER
    return [i - FIRST_NUMBER for i in row[1:-1]]


def sample(lengths, seed=0, **options):
    task = LongestIncreasingSubsequence(**options)
    return task, task.sample(np.random.default_rng(seed), np.asarray(lengths))


def test_the_two_oracles_agree_with_each_other_and_with_the_task():
    rng = np.random.default_rng(0)
    numbers = rng.integers(8, size=(60, 8))
    expected = [all_subsequences(row) for row in numbers.tolist()]
    assert expected == [patience(row) for row in numbers.tolist()]
    np.testing.assert_array_equal(subsequence_lengths(numbers), expected)


@pytest.mark.parametrize("group", [1, 4, 10])
def test_every_chain_is_the_dynamic_program(group):
    limits = {"smallest": 46, "number_range": 99}
    _, examples = sample(np.arange(1200) % 45 + 1, group=group, **limits)
    for problem, rounds, count, answer, length in zip(*examples):
        numbers = numbers_of(problem)
        values = patience(numbers)
        assert len(numbers) == length and 46 <= min(numbers) and max(numbers) < 99
        assert answer == FIRST_NUMBER + max(values)
        chain = []
        for start in range(0, len(values), group):
            group_values = values[start : start + group]
            group_values += [group_values[-1]] * (
                group - len(group_values)
            )  # the last value again
            chain.append([*(FIRST_NUMBER + v for v in group_values), SEP])
        assert count == len(chain)
        for t, row in enumerate(rounds):
            group_values = [int(i) for i in row if i != PAD]
            assert group_values == (chain[t] if t < count else [])


def test_paper_lengths():
    task, examples = sample([100, 120, 101, 9, 11])
    assert examples.num_rounds.tolist() == [10, 12, 11, 1, 2]
    assert [task.num_rounds(n) for n in (100, 120, 101)] == [10, 12, 11]
    for problem, answer in zip(examples.problem, examples.answer):
        assert answer == FIRST_NUMBER + max(patience(numbers_of(problem)))


def test_planted_numbers_are_everywhere():
    """Every position gets its share of the planted numbers, and so of the rises."""
    limits = {"smallest": 41, "number_range": 100}
    _, examples = sample(np.full(6000, 40), **limits)
    rises = np.diff(examples.problem[:, 1:41], axis=1) > 0
    assert np.ptp(rises.mean(axis=0)) < 0.25


@pytest.mark.parametrize("length", [1, 9, 10, 11, 25])
def test_bounds_are_reached_and_never_exceeded(length):
    task, examples = sample(np.full(3000, length), smallest=26, number_range=52)
    size = (examples.problem != PAD).sum(axis=1)
    group_values = (examples.rounds != PAD).sum(axis=-1)
    assert size.max() == task.problem_size(length) == examples.problem.shape[1]
    assert group_values.max() == task.round_size(length) == examples.rounds.shape[2]
    assert task.num_rounds(length) == examples.rounds.shape[1]
    assert examples.problem.max() - FIRST_NUMBER == task.max_number(length) == 51
    assert examples.rounds.max() - FIRST_NUMBER <= task.max_number(length)


def right(*rows):
    """Token rows, right-aligned."""
    width = max(map(len, rows))
    return [[PAD] * (width - len(row)) + row for row in rows]


def test_scratchpad_is_as_drawn():
    problem = right(encode("[LIS]3 9 4 7 5<sep>"), encode("[LIS]3 9<sep>"))
    task = LongestIncreasingSubsequence(group=4)
    space = task.scratchpad(jnp.array(problem), 2)
    assert isinstance(task, Task)
    no = -1
    zero = FIRST_NUMBER  # the value of no numbers, at the task token
    memory = [[zero, *[PAD] * 6], [PAD, PAD, PAD, zero, PAD, PAD, PAD]]
    np.testing.assert_array_equal(space.initial, memory)
    np.testing.assert_array_equal(space.constants, np.full((2, 2, 7), no))
    source = [
        [[no, 2, 3, 4, 5, no, no], [no, no, no, no, 2, 3, no]],
        [[no, no, no, no, no, 2, no], [no] * 7],
    ]
    np.testing.assert_array_equal(space.copy_from, source)
    reads = [
        [[0, 1, 2, 3, 4, 0, 0], [0, 0, 0, 0, 1, 2, 0]],
        [[0, 0, 0, 0, 0, 1, 0], [0] * 7],
    ]
    np.testing.assert_array_equal(space.pointers[..., 0], reads)
    outputs = [
        [[0, 0, 1, 2, 3, 4, 0], [0, 0, 1, 2, 2, 2, 0]],
        [[0, 0, 1, 1, 1, 1, 0], [0] * 7],
    ]
    np.testing.assert_array_equal(space.pointers[..., 1], outputs)
    assert space.shows_problem and not space.has_differences


def test_memory_has_each_value_below_its_number(memories):
    task, examples = sample(np.arange(40) % 23 + 1, group=5)
    loops = task.num_rounds(23)
    batch = looped_batch(examples, task, loops)
    space = task.scratchpad(jnp.array(batch.problem), loops)
    seen, marks = memories(space, batch.rounds), np.array(space.pointers)
    for b, problem in enumerate(batch.problem.tolist()):
        values = patience(numbers_of(problem))
        start = problem.index(LIS) + 1
        for t in range(loops + 1):
            known = [FIRST_NUMBER + v for v in values[: t * 5]]
            rest = [PAD] * (len(problem) - start - len(known))
            before = [PAD] * (start - 1) + [FIRST_NUMBER]
            assert seen[t][b].tolist() == before + known + rest
        for t in range(loops):
            read = {m: j for j, m in enumerate(marks[t, b, :, 0].tolist()) if m}
            group = range(start + t * 5, start + min(t * 5 + 5, len(values)))
            assert read == {slot: j for slot, j in enumerate(group, 1)}
            for j, mark in enumerate(marks[t, b, :, 1].tolist()):
                group_values = batch.rounds[t, b, j]
                assert (mark > 0) == (group_values >= FIRST_NUMBER)
                if mark:  # the value predicted here belongs to the number with the same pointer
                    assert group_values == FIRST_NUMBER + values[read[mark] - start]


def test_messages():
    for group, smallest, number_range in [(0, 5, 250), (10, 1, 9), (10, 9, 9)]:
        with pytest.raises(ValueError) as error:
            LongestIncreasingSubsequence(group, smallest, number_range)
        assert str(error.value) == (
            "lis: group must be 1 or more and smallest 2 .. number_range - 1, got "
            f"group {group}, smallest {smallest} and number_range {number_range}"
        )
    for smallest, number_range in [(20, 90), (90, 109)]:
        with pytest.raises(ValueError) as error:
            sample([7, 20], smallest=smallest, number_range=number_range)
        assert str(error.value) == (
            f"lis: length 20 is out of range: with smallest {smallest} and "
            f"number_range {number_range} it is at most 19 (numbers must be above "
            "every length, and distinct within a run)"
        )
    with pytest.raises(ValueError) as error:
        sample([0])
    assert str(error.value) == (
        "lis: length 0 is out of range; problems have a length of 1 or more"
    )
