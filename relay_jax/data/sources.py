"""Random-access sources of examples: `source.take(indices)` is all they can do.

Whether a problem belongs to training or to testing is decided by a hash of the problem
itself, so the two never meet, whatever seed or source they come from.
"""

import functools
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from relay_jax.base import Bool, Examples, Host, Int
from relay_jax.tasks.task import Task
from relay_jax.vocabulary import PAD

BLOCK = 1024  # examples made in one vectorised call
TEST_SHARE = 10  # one problem in this many is a test problem
MAX_DRAWS = 100
MAX_TOKENS = 2**18  # of a chain: the paper's longest times 8 has 1.6e5
PURPOSES = {"train": 1, "test": 2}


@runtime_checkable
class Source(Protocol):
    def __len__(self) -> int: ...

    def take(self, indices: Int[Host, " b"]) -> Examples: ...


class SyntheticSource(NamedTuple):
    """Examples made on the fly: example i is a function of (seed, split, i).

    Problems per length are proportional to the length, as in the paper.
    """

    task: Task
    lengths: tuple[int, int]
    seed: int
    split: str = "train"
    num_examples: int = 2**40

    def __len__(self) -> int:
        return self.num_examples

    def take(self, indices: Int[Host, " b"]) -> Examples:
        indices = np.asarray(indices) % self.num_examples
        blocks, place = np.divmod(indices, BLOCK)
        wanted, which = np.unique(blocks, return_inverse=True)
        made = [_block(self, int(block)) for block in wanted]
        merged = made[0] if len(made) == 1 else concatenate(made)
        return Examples(*(part[which * BLOCK + place] for part in merged))


@functools.lru_cache(maxsize=16)
def _block(source: SyntheticSource, block: int) -> Examples:
    shortest, longest = source.lengths
    rng = np.random.default_rng([source.seed, PURPOSES[source.split], block])
    choices = np.arange(shortest, longest + 1)
    length = rng.choice(choices, size=BLOCK, p=choices / choices.sum())
    # The longest length is always present, so every block has the same shape.
    made = sample_split(source.task, rng, np.append(length, longest), source.split)
    return Examples(*(part[:-1] for part in made))


def sample_split(
    task: Task, rng: np.random.Generator, length: Int[Host, " b"], split: str
) -> Examples:
    """Samples problems of the given lengths, only such as belong to the split.

    Raises:
      ValueError: a length has no problem in this split (it has too few problems).
    """
    made = task.sample(rng, length)
    for _ in range(MAX_DRAWS):
        wrong = np.flatnonzero(is_test(made.problem) != (split == "test"))
        if not len(wrong):
            return made
        # Several tries a row at once: test problems are one in ten.
        tries = np.repeat(wrong, 1 if split == "train" else TEST_SHARE)
        again = task.sample(rng, np.append(length[tries], length.max()))
        fits = np.flatnonzero(is_test(again.problem)[:-1] == (split == "test"))
        fits = fits[np.unique(tries[fits], return_index=True)[1]]
        for part, new in zip(made, again, strict=True):
            part[tries[fits]] = new[fits]
    raise ValueError(
        f"{task.name}: no {split} problem of length {length[wrong[0]]} was found in "
        f"{MAX_DRAWS} rounds of draws; use longer problems or more numbers"
    )


def check_problems(task: Task, lengths: tuple[int, int], split: str) -> None:
    """Raises ValueError at a range that is empty, whose chains are too long to be made,
    or that the task has no problems of in this split."""
    shortest, longest = lengths
    if not 1 <= shortest <= longest:
        raise ValueError(
            f"{task.name}: lengths {shortest}..{longest} are out of range; give "
            "(shortest, longest) with 1 <= shortest <= longest"
        )
    size = task.num_rounds(longest) * task.round_size(longest)
    if size > MAX_TOKENS:
        raise ValueError(
            f"{task.name}: a chain of length {longest} has up to {size:,} tokens, more "
            f"than the {MAX_TOKENS:,} that there is room for; use shorter problems"
        )
    sample_split(task, np.random.default_rng(0), np.array(lengths), split)


def is_test(problem: Int[Host, "b p"]) -> Bool[Host, " b"]:
    """Whether a problem is held out for testing: a hash of its tokens decides."""
    rng = np.random.default_rng(20_250_212)
    factor = rng.integers(2**63, size=problem.shape[1], dtype=np.uint64) * 2 + 1
    with np.errstate(over="ignore"):
        mixed = np.sum(problem.astype(np.uint64) * factor, axis=1, dtype=np.uint64)
        mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    return (mixed >> np.uint64(32)) % np.uint64(TEST_SHARE) == 0


class InMemorySource(NamedTuple):
    """Examples in memory, e.g. the chains that a looped model has written."""

    examples: Examples
    seed: int = 0
    wanted: int = 0  # how many there were to be; 0: as many as there are

    def __len__(self) -> int:
        return len(self.examples.problem)

    def take(self, indices: Int[Host, " b"]) -> Examples:
        indices = shuffled(np.asarray(indices), len(self), self.seed)
        return Examples(*(part[indices] for part in self.examples))


def shuffled(indices: Int[Host, " b"], num: int, seed: int) -> Int[Host, " b"]:
    """Index i of an endless stream that goes through `num` examples epoch by epoch,
    each epoch in another order."""
    epoch, place = np.divmod(indices, num)
    return np.array(
        [_order(num, seed, int(e))[p] for e, p in zip(epoch, place, strict=True)]
    )


@functools.lru_cache(maxsize=4)
def _order(num: int, seed: int, epoch: int):
    return np.random.default_rng([seed, num, epoch]).permutation(num)


def concatenate(parts: list[Examples]) -> Examples:
    """Joins examples of one task; narrower ones are padded."""

    def join(arrays):
        widest = np.max([array.shape[1:] for array in arrays], axis=0, initial=0)
        grown = [
            np.pad(
                array,
                [(0, 0), *((0, w - s) for w, s in zip(widest, array.shape[1:]))],
                constant_values=PAD,
            )
            for array in arrays
        ]
        return np.concatenate(grown)

    return Examples(*(join(field) for field in zip(*parts)))
