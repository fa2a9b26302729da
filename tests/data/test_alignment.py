"""Alignment as drawn, and M_t computed cell by cell as the paper defines it."""

import numpy as np
import pytest

from relay_jax.base import DecoderBatch, Examples, LoopedBatch
from relay_jax.data import alignment
from relay_jax.data.alignment import (
    decoder_batch,
    flatten,
    looped_batch,
    right_align,
    round_mask,
)
from relay_jax.tasks import TASKS
from relay_jax.tasks.arithmetic import Arithmetic
from relay_jax.tasks.edit_distance import EditDistance
from relay_jax.vocabulary import EOS, PAD, TaskTokenizer

encode = TaskTokenizer().encode


def examples(*texts):
    """`[ARI]... round round ... answer` -> Examples, padded on the right."""
    rows = [[encode(symbol) for symbol in text.split()] for text in texts]
    max_rounds = max(len(row) for row in rows) - 2
    widest = [max(len(row[0]) for row in rows), 1]
    widest[1] = max(len(round_tokens) for row in rows for round_tokens in row[1:])
    solved = Examples(
        np.full((len(rows), widest[0]), PAD, np.int16),
        np.full((len(rows), max_rounds, widest[1]), PAD, np.int16),
        np.array([len(row) - 2 for row in rows]),
        np.array([row[-1][0] for row in rows], np.int16),
        np.array([len(row) - 2 for row in rows]),
    )
    for b, (problem, *rounds, _) in enumerate(rows):
        solved.problem[b, : len(problem)] = problem
        for t, round_tokens in enumerate(rounds):
            solved.rounds[b, t, : len(round_tokens)] = round_tokens
    return solved


PAPER = "[ARI]3*2+6/3= 6+6/3= 6+2= 8 8"
SHORT = "[ARI]1+2= 3 3"


def test_looped_batch_is_as_drawn():
    batch = looped_batch(examples(PAPER, SHORT), Arithmetic(11), 4, width=10)
    assert isinstance(batch, LoopedBatch)
    none = [PAD] * 10
    np.testing.assert_array_equal(
        batch.problem,
        [[PAD, *encode("[ARI]3*2+6/3=")], [PAD] * 5 + encode("[ARI]1+2=")],
    )
    paper = [
        [PAD] * 4 + encode("6+6/3="),
        [PAD] * 6 + encode("6+2="),
        [PAD] * 9 + encode("8"),
        none,
    ]
    short = [[PAD] * 9 + encode("3"), none, none, none]
    np.testing.assert_array_equal(batch.rounds, np.stack([paper, short], axis=1))
    paper = [
        [0, 0, 0, 1, 1, 1, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 1, 1, 1, 1, 1],
        [0, 0, 0, 0, 0, 0, 0, 0, 1, 1],
        [0] * 10,
    ]
    short = [[0, 0, 0, 0, 0, 0, 0, 0, 1, 1], [0] * 10, [0] * 10, [0] * 10]
    np.testing.assert_array_equal(batch.mask, np.stack([paper, short], axis=1))
    assert batch.mask.dtype == bool
    np.testing.assert_array_equal(batch.answer, encode("8 3"))
    np.testing.assert_array_equal(batch.num_rounds, [3, 1])
    others = (batch.problem, batch.rounds, batch.answer, batch.num_rounds)
    assert all(array.dtype == np.int32 for array in others)


def test_decoder_batch_is_as_drawn():
    batch = decoder_batch(examples(PAPER, SHORT), Arithmetic(11))
    assert isinstance(batch, DecoderBatch)
    paper = encode("[ARI]3*2+6/3=6+6/3=6+2=8<eos>")
    short = encode("[ARI]1+2=3<eos>")
    width = 32  # 21 tokens, in steps of 16
    np.testing.assert_array_equal(
        batch.tokens,
        [row + [PAD] * (width - len(row)) for row in (paper, short)],
    )
    trained = [[0] * 9 + [1] * 12 + [0] * 11, [0] * 5 + [1] * 2 + [0] * 25]
    np.testing.assert_array_equal(batch.trained, trained)
    assert batch.tokens.dtype == np.int32 and batch.trained.dtype == bool


def test_the_answer_follows_a_chain_that_does_not_contain_it():
    solved = examples("[ED]ab|acb<sep> 0,2,4,, 2,3,2,, 2", "[ED]a|b<sep> 3,, 3")
    text, problem_sizes = flatten(solved, EditDistance())
    first = encode("[ED]ab|acb<sep>0,2,4,,2,3,2,,2<eos>")
    second = encode("[ED]a|b<sep>3,,3<eos>")
    for row, expected in zip(text.tolist(), (first, second)):
        assert row == expected + [PAD] * (len(row) - len(expected))
    assert problem_sizes.tolist() == [8, 5]


@pytest.mark.parametrize("name", TASKS)
def test_flatten_loses_and_adds_nothing(name):
    task = TASKS[name]()
    solved = task.sample(np.random.default_rng(0), np.arange(60) % 13 + 1)
    text, problem_sizes = flatten(solved, task)
    batch = decoder_batch(solved, task)
    for b, row in enumerate(text.tolist()):
        parts = [*solved.problem[b], *solved.rounds[b].ravel()]
        if name != "arithmetic":
            parts.append(solved.answer[b])
        expected = [int(i) for i in parts if i != PAD] + [EOS]
        assert row == expected + [PAD] * (len(row) - len(expected))
        assert row[len(expected) - 2] == solved.answer[b]
        assert problem_sizes[b] == np.sum(solved.problem[b] != PAD)
        trained = [problem_sizes[b] <= j < len(expected) for j in range(len(row))]
        assert (
            batch.trained[b].tolist()[: len(row)] == trained[: batch.trained.shape[1]]
        )
        assert batch.tokens[b].tolist()[: len(row)] == row[: batch.tokens.shape[1]]
    assert batch.tokens.shape[1] % alignment.WIDTH_STEP == 0
    assert 0 < (batch.tokens != PAD).sum(axis=1).max() <= batch.tokens.shape[1]


@pytest.mark.parametrize("name", TASKS)
def test_the_room_for_new_tokens_is_enough_and_no_more_than_needed(name):
    task, length = TASKS[name](), 12
    solved = task.sample(np.random.default_rng(0), np.full(200, length))
    text, problem_sizes = flatten(solved, task)
    longest = (alignment.sizes(text) - problem_sizes).max()
    room = alignment.max_new_tokens(task, length)
    assert longest <= room
    assert longest == room or name == "arithmetic"  # brackets make its length vary


def test_left_alignment_keeps_the_order_of_long_rows():
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 10, (4, 300)) * rng.integers(0, 2, (4, 300))
    for row, aligned in zip(tokens, alignment.left_align(tokens)):
        found = row[row != PAD]
        np.testing.assert_array_equal(aligned[: len(found)], found)
        assert not aligned[len(found) :].any()


def paper_mask(row):
    """1 at the tokens and at the one pad just before them; nothing else."""
    tokens = [j for j, token in enumerate(row) if token != PAD]
    return [
        j in tokens or (bool(tokens) and j == tokens[0] - 1) for j in range(len(row))
    ]


@pytest.mark.parametrize("name", TASKS)
def test_alignment_cell_by_cell(name):
    task = TASKS[name]()
    solved = task.sample(np.random.default_rng(1), np.arange(60) % 13 + 1)
    loops = task.num_rounds(13) + 2
    batch = looped_batch(solved, task, loops)
    width = batch.problem.shape[1]
    assert batch.rounds.shape == batch.mask.shape == (loops, 60, width)
    for b in range(60):
        problem = [i for i in solved.problem[b].tolist() if i != PAD]
        assert batch.problem[b].tolist() == [PAD] * (width - len(problem)) + problem
        for t in range(loops):
            round_tokens = solved.rounds[b, t] if t < solved.rounds.shape[1] else []
            round_tokens = [int(i) for i in round_tokens if i != PAD]
            row = [PAD] * (width - len(round_tokens)) + round_tokens
            assert batch.rounds[t, b].tolist() == row
            assert batch.mask[t, b].tolist() == paper_mask(row)
            assert batch.mask[t, b].sum() == (
                len(round_tokens) + 1 if round_tokens else 0
            )
            assert bool(round_tokens) == (t < batch.num_rounds[b])


@pytest.mark.parametrize("name", TASKS)
def test_widths_are_few_and_sufficient(name):
    """Every batch of a range of lengths has one of few widths, all wide enough."""
    task = TASKS[name]()
    bound = max(task.problem_size(13), task.round_size(13) + 1)
    widths = set()
    for seed in range(20):
        length = np.append(np.random.default_rng(seed).integers(1, 13, size=7), 13)
        solved = task.sample(np.random.default_rng(seed), length)
        width = alignment.looped_width(solved, task)
        needed = max(
            np.sum(solved.problem != PAD, axis=1).max(),
            np.sum(solved.rounds != PAD, axis=2).max() + 1,  # with its boundary pad
        )
        assert needed <= width < needed + alignment.WIDTH_STEP and width <= bound
        widths.add(width)
    assert all((bound - width) % alignment.WIDTH_STEP == 0 for width in widths)


class WideRounds(Arithmetic):
    """Its rounds are longer than its problems, unlike those of every task so far."""

    def round_size(self, length):
        return self.problem_size(length) + 4


def test_the_largest_width_has_room_for_rounds_that_are_longer_than_problems():
    task = WideRounds(11)
    assert alignment.max_looped_width(task, 3) == task.problem_size(3) + 5


def test_rounds_have_no_more_columns_than_problems():
    batch = looped_batch(examples(PAPER), Arithmetic(11), 3, width=10, columns=99)
    assert batch.rounds.shape == (3, 1, 10)
    batch = looped_batch(examples(PAPER), Arithmetic(11), 3, width=12, columns=10)
    assert batch.rounds.shape == (3, 1, 10) and batch.problem.shape == (1, 12)


def test_every_round_has_room_for_its_boundary_pad():
    for size in range(1, 40):
        batch = looped_batch(
            examples(f"[ARI]1= {'1' + '+1' * size} 1"), Arithmetic(), 1
        )
        assert batch.mask.sum() == 2 * size + 2


def test_truncated_chains_have_their_first_rounds_and_only_answers_that_they_reach():
    solved = Arithmetic(5).sample(np.random.default_rng(0), np.array([1, 2, 4]))
    cut = alignment.truncate_chains(solved, 2)
    np.testing.assert_array_equal(cut.rounds, solved.rounds[:, :2])
    assert cut.num_rounds.tolist() == [1, 2, 2]
    assert cut.answer.tolist() == [solved.answer[0], solved.answer[1], PAD]
    for truncated, whole in zip(alignment.truncate_chains(solved, 4), solved):
        np.testing.assert_array_equal(truncated, whole)


def test_right_align_and_mask_take_any_leading_axes():
    tokens = np.array([[[5, 6, PAD], [PAD, PAD, PAD]], [[5, 6, 7], [5, PAD, PAD]]])
    aligned = right_align(tokens, 4)
    expected = [[[0, 0, 5, 6], [0, 0, 0, 0]], [[0, 5, 6, 7], [0, 0, 0, 5]]]
    np.testing.assert_array_equal(aligned, expected)
    mask = [[[0, 1, 1, 1], [0, 0, 0, 0]], [[1, 1, 1, 1], [0, 0, 1, 1]]]
    np.testing.assert_array_equal(round_mask(aligned), mask)
    np.testing.assert_array_equal(right_align(tokens[0], 2), [[5, 6], [0, 0]])


def test_messages():
    with pytest.raises(ValueError) as error:
        looped_batch(examples(PAPER), Arithmetic(11), 2)
    assert str(error.value) == "arithmetic: a chain of 3 rounds does not fit 2 loops"
    with pytest.raises(ValueError) as error:
        looped_batch(examples(PAPER), Arithmetic(11), 3, width=8)
    assert str(error.value) == "a row of 9 tokens does not fit 8 columns"
