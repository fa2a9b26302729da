"""Edit distance against the textbook recurrence."""

import jax.numpy as jnp
import numpy as np
import pytest

from relay_jax.data.alignment import looped_batch
from relay_jax.tasks import Task, make_task
from relay_jax.tasks.edit_distance import EditDistance, distance_rows
from relay_jax.vocabulary import (
    BAR,
    COMMA,
    ED,
    FIRST_LETTER,
    FIRST_NUMBER,
    PAD,
    SEP,
    TaskTokenizer,
)
from tests.tasks import published

encode = TaskTokenizer(500).encode


def textbook(first, second, border_cost=2):
    """The whole matrix; insert and delete cost 2, replace 3."""
    matrix = [[border_cost * j for j in range(len(second) + 1)]]
    for i, one in enumerate(first):
        row = [border_cost * (i + 1)]
        for j, two in enumerate(second):
            replaced = matrix[i][j] + (0 if one == two else 3)
            row.append(min(replaced, matrix[i][j + 1] + 2, row[j] + 2))
        matrix.append(row)
    return matrix


def strings(problem):
    """s1 and s2 of a problem's tokens, whose layout is checked, too."""
    row = [int(i) for i in problem if i != PAD]
    assert row[0] == ED and row[-1] == SEP and row.count(BAR) == 1
    bar = row.index(BAR)
    first, second = row[1:bar], row[bar + 1 : -1]
    letters = set(first) | set(second)
    assert all(FIRST_LETTER <= i < FIRST_NUMBER for i in letters)
    return first, second


def sample(lengths, seed=0, **options):
    task = EditDistance(**options)
    return task, task.sample(np.random.default_rng(seed), np.asarray(lengths))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"using": 1},
        {"using": 24, "max_extra": 4},
        {"max_extra": 3, "border_cost": 1},
    ],
)
def test_every_chain_is_the_textbook_matrix(options):
    task, examples = sample(np.arange(1500) % 12 + 1, **options)
    for problem, rounds, count, answer, length in zip(*examples):
        first, second = strings(problem)
        assert len(first) == length == count
        assert length <= len(second) <= length + task.max_extra
        matrix = textbook(first, second, task.border_cost)
        for t in range(1, examples.rounds.shape[1] + 1):
            entries = [int(i) for i in rounds[t - 1] if i != PAD]
            if t > count:
                assert not entries
            else:
                numbers = [FIRST_NUMBER + d for d in matrix[t][1:]]
                assert entries == [*numbers, COMMA]
        assert answer == FIRST_NUMBER + matrix[-1][-1]
        for axis in (0, 1):  # a model's `max_difference` need not be larger
            assert np.max(np.abs(np.diff(matrix, axis=axis)), initial=0) <= 2


@pytest.mark.parametrize("border_cost", [1, 2])
def test_distance_rows_of_long_strings(border_cost):
    rng = np.random.default_rng(0)
    first, second = rng.integers(4, size=(20, 33)), rng.integers(4, size=(20, 41))
    expected = [
        textbook(*pair, border_cost) for pair in zip(first.tolist(), second.tolist())
    ]
    assert expected == [
        published.distances(*pair, border_cost) for pair in zip(first, second)
    ]
    np.testing.assert_array_equal(distance_rows(first, second, border_cost), expected)


def test_two_pairs_in_five_are_independent():
    """With many letters and no room for insertions, a related pair has 1 to 40
    replacements; 40 (1 - 1/40)^k >= 15 letters stay on average. Unrelated strings
    agree in 40/15 positions or fewer."""
    _, examples = sample(np.full(3000, 40), using=24, max_extra=0)
    pairs = [strings(problem) for problem in examples.problem]
    rich = [pair for pair in pairs if len(set(pair[0])) > 15]
    agree = [sum(a == b for a, b in zip(*pair)) for pair in rich]
    assert len(rich) > 1000
    assert abs(np.mean(np.array(agree) >= 9) - 0.6) < 0.04


def test_letters_and_lengths_are_distributed_as_documented():
    _, examples = sample(np.full(4000, 30), using=5)
    pairs = [strings(problem) for problem in examples.problem]
    letters = [len(set(first) | set(second)) for first, second in pairs]
    counts = np.bincount(letters, minlength=8)
    assert counts[:3].sum() == 0 and len(counts) == 8  # 3 to using + 2
    assert np.all(np.abs(counts[3:] / 4000 - 1 / 5) < 0.03)
    extra = np.bincount([len(b) - len(a) for a, b in pairs], minlength=3) / 4000
    assert len(extra) == 3 and extra.min() > 0.15
    everything = np.bincount([i for pair in pairs for i in pair[0]])[FIRST_LETTER:]
    assert len(everything) == 26 and everything.min() > everything.mean() * 0.9


def test_every_number_of_edits_and_every_kind_occurs():
    """Pairs one edit apart: an insertion costs 2, a replacement 3 (a deletion would
    leave s2 shorter than s1, so it replaces), and equal letters cost 0."""
    _, examples = sample(np.full(6000, 10), using=24)
    counts = np.bincount(examples.answer - FIRST_NUMBER, minlength=4)
    assert counts[1] == 0
    assert np.all(counts[[0, 2, 3]] > 6000 * 0.6 / 10 * 0.02)
    assert counts[2:4].sum() > 6000 * 0.6 / 10 * 0.8  # one edit: a tenth of them


def test_the_published_borders_are_the_default_of_nothing_else():
    """Old configs have no `border_cost`, and mean the textbook's borders."""
    assert make_task("edit_distance", {"using": 8, "max_extra": 2}) == EditDistance()
    assert EditDistance().border_cost == 2
    assert EditDistance().semantic_options == ("border_cost",)
    first, second = np.array([[0, 1, 2]]), np.array([[0, 3, 2, 2]])
    first_round = distance_rows(first, second, 1)[0, 1]
    assert first_round.tolist() == [1, 0, 2, 4, 6]


@pytest.mark.parametrize("border_cost", [1, 2])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_bounds_are_reached_and_never_exceeded(length, border_cost):
    task, examples = sample(np.full(5000, length), using=24, border_cost=border_cost)
    size = (examples.problem != PAD).sum(axis=1)
    entries = (examples.rounds != PAD).sum(axis=-1)
    assert size.max() == task.problem_size(length) == examples.problem.shape[1]
    assert entries.max() == task.round_size(length) == examples.rounds.shape[2]
    assert task.num_rounds(length) == examples.rounds.shape[1] == length
    assert examples.rounds.max() - FIRST_NUMBER == task.max_number(length)


def right(*rows):
    """Token rows, right-aligned."""
    width = max(map(len, rows))
    return [[PAD] * (width - len(row)) + row for row in rows]


def test_scratchpad_is_as_drawn():
    problem = right(encode("[ED]ab|acb<sep>"), encode("[ED]c|ca<sep>"))
    space = EditDistance().scratchpad(jnp.array(problem), 2)
    assert isinstance(EditDistance(), Task)
    memory = right([PAD] * 3 + encode("0 2 4 6,"), encode("0 2 4,"))
    np.testing.assert_array_equal(space.initial, memory)
    no = -1
    source = [[no, no, no, no, 4, 5, 6, 7], [no, no, no, no, no, 5, 6, 7]]
    np.testing.assert_array_equal(space.copy_from, [source, source])
    two, four = encode("2 4")
    expected_constants = [
        [[no, no, no, two, no, no, no, no], [no, no, no, no, two, no, no, no]],
        [[no, no, no, four, no, no, no, no], [no, no, no, no, four, no, no, no]],
    ]
    np.testing.assert_array_equal(space.constants, expected_constants)
    reads = [
        [[0, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0]],
        [[0, 0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0]],
    ]
    np.testing.assert_array_equal(space.pointers[..., 0], reads)
    np.testing.assert_array_equal(space.pointers[..., 1], np.zeros((2, 2, 8)))
    assert space.shows_problem and space.has_differences


@pytest.mark.parametrize("border_cost", [1, 2])
def test_memory_is_the_last_row_over_s2(border_cost, memories):
    task, examples = sample(np.arange(30) % 6 + 1, border_cost=border_cost)
    batch = looped_batch(examples, task, 6)
    space = task.scratchpad(jnp.array(batch.problem), 6)
    seen, marks = memories(space, batch.rounds), np.array(space.pointers)
    assert np.max(seen) - FIRST_NUMBER <= task.max_number(6)
    width = batch.problem.shape[1]
    for b, problem in enumerate(batch.problem):
        first, second = strings(problem)
        for t, row in enumerate(textbook(first, second, border_cost)):
            expected = [*(FIRST_NUMBER + d for d in row), COMMA]
            left = width - len(expected)
            assert seen[t][b].tolist() == [PAD] * left + expected
            assert problem[left] == BAR
        for t in range(6):
            marked = np.flatnonzero(marks[t, b, :, 0]).tolist()
            letters = [problem[j] for j in marked]
            assert letters == first[t : t + 1]
            start = problem.tolist().index(ED)
            assert marked == ([start + 1 + t] if t < len(first) else [])


def test_messages():
    for using in (0, 25):
        with pytest.raises(ValueError) as error:
            EditDistance(using=using)
        assert str(error.value) == f"edit_distance: using must be 1..24, got {using}"
    with pytest.raises(ValueError) as error:
        EditDistance(max_extra=-1)
    assert str(error.value) == "edit_distance: max_extra must be 0 or more, got -1"
    with pytest.raises(ValueError) as error:
        EditDistance(border_cost=3)
    assert str(error.value) == (
        "edit_distance: border_cost must be 2 (the textbook's) or 1 (as published), got 3"
    )
    with pytest.raises(ValueError) as error:
        sample([5, -2])
    assert str(error.value) == (
        "edit_distance: length -2 is out of range; problems have a length of 1 or more"
    )
