"""Longest increasing subsequence by dynamic programming, a group of numbers a round.

    [LIS] 3 9 4 7 5 <sep>   ->   1 2 2 3 <sep>   ->   3 3 3 3 <sep>       answer 3

(groups of 4 here.) Each number's value is the length of the longest strictly increasing
subsequence that ends with it. A round holds the values of the next `group` numbers, then
`<sep>`; a last group that is not full repeats its last value. The answer is the largest
value (Feng et al. 2023; RELAY section 4.1).
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from relay_jax.arrays import Array, Host, Int
from relay_jax.tasks.task import Examples, Workspace, check_length, empty_tokens
from relay_jax.tokens import FIRST_NUMBER, LIS, PAD, SEP

MAX_RUNS = 3


@dataclasses.dataclass(frozen=True)
class LongestIncreasingSubsequence:
    """Length: how many numbers. They are drawn from 0..number_range - 1, and one to
    three increasing runs, of neighbouring numbers, are planted in random places."""

    group: int = 10
    number_range: int = 250
    long_runs: bool = (
        False  # for training: half of the problems have one run of any size
    )

    name = "lis"
    token = LIS
    answer_in_chain = False

    def __post_init__(self):
        if self.group < 1 or self.number_range < 2:
            raise ValueError(
                "lis: group must be 1 or more and number_range 2 or more, got "
                f"{self.group} and {self.number_range}"
            )

    def num_rounds(self, length: int) -> int:
        return -(-length // self.group)

    def problem_size(self, length: int) -> int:
        return length + 2

    def round_size(self, length: int) -> int:
        return self.group + 1

    def max_number(self, length: int) -> int:
        return max(self.number_range - 1, length)

    def sample(self, rng: np.random.Generator, length: Int[Host, " b"]) -> Examples:
        check_length(self, length)
        longest = int(length.max(initial=1))
        if longest >= self.number_range:
            raise ValueError(
                f"lis: length {longest} is out of range; number_range "
                f"({self.number_range}) must be above the sequence length"
            )
        numbers = self._numbers(rng, length, longest)
        values = subsequence_lengths(numbers)
        num, row = len(length), np.arange(len(length))
        inside = np.arange(longest) < length[:, None]

        problem = empty_tokens(num, longest + 2)
        problem[:, 0] = LIS
        problem[:, 1:-1] = np.where(inside, FIRST_NUMBER + numbers, PAD)
        problem[row, length + 1] = SEP

        num_rounds = -(-length // self.group)
        most = self.num_rounds(longest)
        place = np.minimum(np.arange(most * self.group)[None], length[:, None] - 1)
        told = FIRST_NUMBER + np.take_along_axis(values, place, axis=1)
        rounds = empty_tokens(num, most, self.group + 1)
        rounds[..., :-1] = told.reshape(num, most, self.group)
        rounds[..., -1] = SEP
        rounds[np.arange(most) >= num_rounds[:, None]] = PAD
        best = np.max(values, axis=1, where=inside, initial=0)
        answer = (FIRST_NUMBER + best).astype(np.int16)
        return Examples(problem, rounds, num_rounds, answer, length.copy())

    def _numbers(self, rng, length, longest):
        """Random numbers; one to three stretches of them are sorted."""
        num = len(length)
        numbers = rng.integers(self.number_range, size=(num, longest))
        runs = rng.integers(1, MAX_RUNS + 1, size=num)
        is_long = np.zeros(num, bool)
        if self.long_runs:  # values near the length are met that are rare otherwise
            is_long = rng.random(num) < 0.5
            runs[is_long] = 1
        place = np.arange(longest)[None]
        run = np.zeros((num, longest), np.int64)
        for label in range(1, MAX_RUNS + 1):
            start = rng.integers(length)
            size = rng.integers(1, -(-length // runs) + 1)
            if self.long_runs:  # wherever it fits, so that it is not cut short
                start = np.where(is_long, rng.integers(length - size + 1), start)
            stop = start + size
            inside = (place >= start[:, None]) & (place < stop[:, None])
            run[inside & (label <= runs)[:, None]] = label
        run[place >= length[:, None]] = MAX_RUNS + 1
        by_place = np.argsort(run, axis=1, kind="stable")
        # Within a run the numbers ascend from place to place; others keep their order.
        free = (run == 0) | (run == MAX_RUNS + 1)
        value = np.where(free, np.arange(longest), numbers)
        by_value = np.lexsort((value, run), axis=1)
        result = np.empty_like(numbers)
        ordered = np.take_along_axis(numbers, by_value, axis=1)
        np.put_along_axis(result, by_place, ordered, axis=1)
        return result

    def workspace(self, problem: Int[Array, "b n"], num_loops: int) -> Workspace:
        """Each value is kept at its number; slot marks tie a group to its output.

        problem   [LIS]  3   9   4   7   5  <sep>
        memory      .    1   2   2   3   .    .        after loop 1 (groups of 4)
        marks 0                          1             loop 2 reads this number ...
        marks 1              1   1   1   1             ... and says its value here
        """
        num, width = problem.shape
        column = jnp.arange(width)[None, None]
        start = jnp.argmax(problem == LIS, axis=1)[None, :, None]
        index = column - start - 1  # which number stands in this column
        length = width - 2 - start
        is_number = (index >= 0) & (index < length)

        loop = jnp.arange(num_loops)[:, None, None]
        slot = index - loop * self.group  # place within this loop's group
        in_group = is_number & (slot >= 0) & (slot < self.group)
        output = column - (width - 1 - self.group)  # slot said in this column
        last = length - 1 - loop * self.group
        is_output = (output >= 0) & (output < self.group) & (last >= 0)
        marks = [
            jnp.where(in_group, slot + 1, 0),
            jnp.where(is_output, jnp.minimum(output, last) + 1, 0),
        ]
        return Workspace(
            memory=jnp.full((num, width), PAD),
            source=jnp.where(in_group, slot + width - 1 - self.group, -1),
            given=jnp.full((num_loops, num, width), -1),
            marks=jnp.stack(marks, axis=-1),
            reads_problem=True,
            has_differences=False,
        )


def subsequence_lengths(numbers):
    """The longest increasing subsequence that ends at each number, for every row."""
    values = np.ones_like(numbers)
    for i in range(1, numbers.shape[1]):
        smaller = numbers[:, :i] < numbers[:, i : i + 1]
        best = np.max(values[:, :i], axis=1, where=smaller, initial=0)
        values[:, i] = best + 1
    return values
