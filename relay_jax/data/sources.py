"""Random-access sources of examples: `source.take(indices)` is their whole interface.

A hash of the problem itself decides whether it is for training or for testing, so the
two splits are disjoint, whatever the seed or the kind of source.
"""

import dataclasses
import functools
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from relay_jax.base import Bool, Examples, Host, Int
from relay_jax.tasks.task import Task
from relay_jax.vocabulary import PAD

BLOCK = 1024  # examples generated in one vectorised call
TEST_SHARE = 10  # one problem in this many is a test problem
MAX_DRAWS = 100
MAX_TOKENS = 2**18  # of a chain; 8 times the paper's longest problems need 1.6e5
PURPOSES = {"train": 1, "test": 2}  # of random numbers, after the seed


@runtime_checkable
class Source(Protocol):
    """Examples by index. Indices may exceed the length: further epochs follow."""

    def __len__(self) -> int: ...

    def take(self, indices: Int[Host, " b"]) -> Examples:
        """The examples at some indices, as one batch."""
        ...


@dataclasses.dataclass(frozen=True)  # pickling a NamedTuple would allocate its length
class SyntheticSource:
    """Examples generated on demand: example i is a function of (seed, split, i).

    The number of problems of a length is proportional to the length, as in RELAY.
    """

    task: Task
    lengths: tuple[int, int]  # shortest and longest, both included
    seed: int
    split: str = "train"

    def __len__(self) -> int:
        return 2**40  # more than any run takes

    def take(self, indices: Int[Host, " b"]) -> Examples:
        numbers, within = np.divmod(np.asarray(indices), BLOCK)
        distinct, which = np.unique(numbers, return_inverse=True)
        blocks = [_block(self, int(number)) for number in distinct]
        merged = blocks[0] if len(blocks) == 1 else concatenate(blocks)
        return Examples(*(part[which * BLOCK + within] for part in merged))


@functools.lru_cache(maxsize=16)
def _block(source: SyntheticSource, number: int) -> Examples:
    shortest, longest = source.lengths
    rng = np.random.default_rng([source.seed, PURPOSES[source.split], number])
    choices = np.arange(shortest, longest + 1)
    length = rng.choice(choices, size=BLOCK, p=choices / choices.sum())
    # The longest length is always present, so every block has the same shape.
    block = sample_split(source.task, rng, np.append(length, longest), source.split)
    return Examples(*(part[:-1] for part in block))


def sample_split(
    task: Task, rng: np.random.Generator, length: Int[Host, " b"], split: str
) -> Examples:
    """Samples problems of the given lengths that belong to one split.

    Raises:
      ValueError: for some length none was found, as it has too few problems.
    """
    examples = task.sample(rng, length)
    for _ in range(MAX_DRAWS):
        wrong = np.flatnonzero(is_test(examples.problem) != (split == "test"))
        if not len(wrong):
            return examples
        # Several tries for each row at once: one problem in ten is a test problem.
        tries = np.repeat(wrong, 1 if split == "train" else TEST_SHARE)
        again = task.sample(rng, np.append(length[tries], length.max()))
        fits = np.flatnonzero(is_test(again.problem)[:-1] == (split == "test"))
        fits = fits[np.unique(tries[fits], return_index=True)[1]]
        for part, new in zip(examples, again, strict=True):
            part[tries[fits]] = new[fits]
    raise ValueError(
        f"{task.name}: no {split} problem of length {length[wrong[0]]} was found in "
        f"{MAX_DRAWS} rounds of draws; use longer problems or more numbers"
    )


def check_problems(task: Task, lengths: tuple[int, int], split: str) -> None:
    """Checks that a task has problems of these lengths in a split.

    Raises:
      ValueError: the range is empty, its chains are too long to be generated, or no
        problem of the split was found.
    """
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
            f"than the {MAX_TOKENS:,} that are supported; use shorter problems"
        )
    sample_split(task, np.random.default_rng(0), np.array(lengths), split)


def is_test(problem: Int[Host, "b p"]) -> Bool[Host, " b"]:
    """Whether each problem is reserved for testing: a hash of its tokens decides."""
    rng = np.random.default_rng(20_250_212)
    factor = rng.integers(2**63, size=problem.shape[1], dtype=np.uint64) * 2 + 1
    with np.errstate(over="ignore"):
        mixed = np.sum(problem.astype(np.uint64) * factor, axis=1, dtype=np.uint64)
        mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    return (mixed >> np.uint64(32)) % np.uint64(TEST_SHARE) == 0


class InMemorySource(NamedTuple):
    """Examples in memory, e.g. chains that a looped model generated; shuffled."""

    examples: Examples
    seed: int = 0
    num_requested: int = 0  # chains requested of the generator; it may have found fewer

    def __len__(self) -> int:
        return len(self.examples.problem)

    def take(self, indices: Int[Host, " b"]) -> Examples:
        indices = shuffled(np.asarray(indices), len(self), self.seed)
        return Examples(*(part[indices] for part in self.examples))


def shuffled(indices: Int[Host, " b"], num: int, seed: int) -> Int[Host, " b"]:
    """The indices of examples at positions of an endless stream of `num` examples.

    The stream has all examples once in each epoch, in a different order.
    """
    epoch, offset = np.divmod(indices, num)
    return np.array(
        [_permutation(num, seed, int(e))[o] for e, o in zip(epoch, offset, strict=True)]
    )


@functools.lru_cache(maxsize=4)
def _permutation(num: int, seed: int, epoch: int):
    return np.random.default_rng([seed, num, epoch]).permutation(num)


def concatenate(parts: list[Examples]) -> Examples:
    """Joins examples of one task; narrower arrays are padded."""
    return Examples(*(_join(arrays) for arrays in zip(*parts)))


def _join(arrays: tuple[Host, ...]) -> Host:
    widest = np.max([array.shape[1:] for array in arrays], axis=0, initial=0)
    padded = [
        np.pad(
            array,
            [(0, 0), *((0, w - s) for w, s in zip(widest, array.shape[1:]))],
            constant_values=PAD,
        )
        for array in arrays
    ]
    return np.concatenate(padded)
