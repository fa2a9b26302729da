"""Sources: random access, and two disjoint splits."""

import numpy as np
import pytest

from relay_jax.base import Examples
from relay_jax.data import sources
from relay_jax.data.sources import (
    BLOCK,
    InMemorySource,
    Source,
    SyntheticSource,
    concatenate,
    is_test,
    sample_split,
    shuffled,
)
from relay_jax.tasks import TASKS
from relay_jax.tasks.arithmetic import Arithmetic
from relay_jax.tasks.edit_distance import EditDistance
from relay_jax.tasks.lis import LongestIncreasingSubsequence
from relay_jax.vocabulary import PAD

SHORT = Arithmetic(5)


def problems(examples):
    """Each problem's tokens, without padding."""
    return [tuple(i for i in row if i != PAD) for row in examples.problem.tolist()]


def same(one, two):
    for left, right in zip(one, two, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("name", TASKS)
def test_train_and_test_are_disjoint(name):
    """For any seeds and ranges of lengths, and so for any padding."""
    task = TASKS[name](**({"modulus": 3} if name == "arithmetic" else {}))
    ranges = [(1, 2), (1, 4), (2, 3)]
    trained, tested = set(), set()
    for seed in range(3):
        for lengths in ranges:
            take = np.arange(1000)
            trained |= set(problems(SyntheticSource(task, lengths, seed).take(take)))
            tested |= set(
                problems(SyntheticSource(task, lengths, seed, "test").take(take))
            )
    assert trained and tested and not trained & tested
    # The same problems do come again, from other seeds: the split is what parts them.
    assert len(trained) + len(tested) < 2 * 9 * 1000


def test_the_hash_ignores_padding_and_selects_one_in_ten():
    rng = np.random.default_rng(0)
    sampled = EditDistance().sample(rng, np.full(20_000, 6))
    held_out = is_test(sampled.problem)
    wider = np.pad(sampled.problem, ((0, 0), (0, 7)), constant_values=PAD)
    np.testing.assert_array_equal(is_test(wider), held_out)
    assert abs(held_out.mean() - 0.1) < 0.01


def test_the_hash_depends_on_every_token_and_its_position():
    row = np.arange(1, 31, dtype=np.int16)
    changed = np.tile(row, (400, 1))
    changed[np.arange(400), np.arange(400) % 30] += 1 + np.arange(400) // 30
    assert 15 < is_test(changed).sum() < 80
    turned = np.stack([np.roll(row, i) for i in range(30)])
    assert len(set(is_test(turned).tolist())) == 2


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_example_is_a_function_of_its_index(split):
    sampled = SyntheticSource(SHORT, (1, 4), 7, split)
    assert isinstance(sampled, Source)
    indices = np.array([5, BLOCK - 1, BLOCK, 3 * BLOCK + 2, 0, 5])
    together = sampled.take(indices)
    same(*(Examples(*(part[[i]] for part in together)) for i in (0, 5)))
    sources._block.cache_clear()
    for i in reversed(range(len(indices))):  # alone, in another order
        alone = sampled.take(indices[[i]])
        same(alone, Examples(*(part[[i]] for part in together)))
    other = SyntheticSource(SHORT, (1, 4), 8, split).take(indices)
    assert problems(other) != problems(together)


def test_changing_examples_does_not_change_the_source():
    sampled = SyntheticSource(SHORT, (1, 4), 0)
    before = problems(sampled.take(np.arange(4)))
    for part in sampled.take(np.arange(4)):
        part[:] = 1
    assert problems(sampled.take(np.arange(4))) == before


def test_a_synthetic_source_does_not_end():
    source = SyntheticSource(SHORT, (2, 4), 0)
    assert len(source) == 2**40
    assert problems(source.take(np.array([2**39]))) != problems(
        source.take(np.zeros(1, int))
    )


@pytest.mark.parametrize("split", ["train", "test"])
def test_examples_per_length_are_proportional_to_the_length(split):
    sampled = SyntheticSource(SHORT, (2, 6), 0, split).take(np.arange(6 * BLOCK))
    share = np.bincount(sampled.length, minlength=7) / (6 * BLOCK)
    assert np.all(share[:2] == 0)
    assert np.all(np.abs(share[2:] - np.arange(2, 7) / 20) < 0.02)


def test_every_example_is_of_its_split_and_well_formed():
    task = LongestIncreasingSubsequence(group=2, smallest=7, number_range=13)
    for split in ("train", "test"):
        length = np.arange(300) % 5 + 2
        sampled = sample_split(task, np.random.default_rng(0), length, split)
        assert np.all(is_test(sampled.problem) == (split == "test"))
        np.testing.assert_array_equal(sampled.length, length)
        np.testing.assert_array_equal((sampled.problem != PAD).sum(1), length + 2)
        np.testing.assert_array_equal(sampled.num_rounds, -(-length // 2))
        counts = (sampled.rounds != PAD).any(axis=2).sum(axis=1)
        np.testing.assert_array_equal(counts, sampled.num_rounds)
        best = np.where(sampled.rounds > 15, sampled.rounds, 0).max(axis=(1, 2))
        np.testing.assert_array_equal(best, sampled.answer)  # all parts moved together


class OneProblem(Arithmetic):
    """Always the same problem."""

    def sample(self, rng, length):
        one = super().sample(np.random.default_rng(0), np.array([2]))
        return Examples(*(np.repeat(part, len(length), axis=0) for part in one))


def test_a_split_without_any_problem_is_an_error():
    task, length = OneProblem(5), np.array([2, 2])
    split = "test" if is_test(task.sample(None, length).problem)[0] else "train"
    missing = {"test": "train", "train": "test"}[split]
    sample_split(task, np.random.default_rng(0), length, split)
    with pytest.raises(ValueError) as error:
        sample_split(task, np.random.default_rng(0), length, missing)
    assert str(error.value) == (
        f"arithmetic: no {missing} problem of length 2 was found in "
        f"{sources.MAX_DRAWS} rounds of draws; use longer problems or more numbers"
    )


def test_shuffled_visits_each_example_once_per_epoch():
    for num in (1, 7, 50):
        epochs = shuffled(np.arange(4 * num), num, 3).reshape(4, num)
        assert np.all(np.sort(epochs, axis=1) == np.arange(num))
        if num == 50:
            assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4
    whole = shuffled(np.arange(100), 50, 3)
    np.testing.assert_array_equal(shuffled(np.array([70, 3]), 50, 3), whole[[70, 3]])
    assert np.any(shuffled(np.arange(100), 50, 4) != whole)


def test_examples_in_memory_are_shuffled():
    sampled = SHORT.sample(np.random.default_rng(0), np.full(30, 9))
    memory_source = InMemorySource(sampled, seed=1)
    assert isinstance(memory_source, Source) and len(memory_source) == 30
    taken = memory_source.take(np.arange(30))
    assert problems(taken) != problems(sampled)
    assert sorted(problems(taken)) == sorted(problems(sampled))
    order = shuffled(np.arange(30), 30, 1)
    same(taken, Examples(*(part[order] for part in sampled)))


def test_concatenate_pads_on_the_right():
    rng = np.random.default_rng(0)
    parts = [EditDistance().sample(rng, np.full(3, n)) for n in (2, 5, 1)]
    joined = concatenate(parts)
    assert joined.problem.shape == (9, 15) and joined.rounds.shape == (9, 5, 8)
    for i, part in enumerate(parts):
        rows = slice(3 * i, 3 * i + 3)
        assert problems(joined)[rows] == problems(part)
        t, r = part.rounds.shape[1:]
        np.testing.assert_array_equal(joined.rounds[rows, :t, :r], part.rounds)
        assert np.all(joined.rounds[rows, t:] == PAD)
        assert np.all(joined.rounds[rows, :, r:] == PAD)
        for field in ("num_rounds", "answer", "length"):
            whole, single = getattr(joined, field), getattr(part, field)
            np.testing.assert_array_equal(whole[rows], single)
