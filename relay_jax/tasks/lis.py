"""Longest increasing subsequence by dynamic programming, a group of numbers per round.

    [LIS] 3 9 4 7 5 <sep>   ->   1 2 2 3 <sep>   ->   3 3 3 3 <sep>       answer 3

The example has groups of 4. The value of a number is the length of the longest strictly
increasing subsequence that ends with it. A round has the values of the next `group`
numbers, then `<sep>`; an incomplete last group repeats its last value. The answer is
the largest value (Feng et al. 2023; RELAY, section 4.1).
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from relay_jax.base import Array, Examples, Host, Int, Scratchpad
from relay_jax.tasks.task import TOKEN_TYPE, check_length, empty_tokens, problem_content
from relay_jax.vocabulary import FIRST_NUMBER, LIS, PAD, SEP

MAX_RUNS = 3
MIN_PLANTED = 3  # the minimum total length of the increasing runs


@dataclasses.dataclass(frozen=True)
class LongestIncreasingSubsequence:
    """Sequences of `length` numbers.

    Numbers are between `smallest` and `number_range - 1`, above every length, so that
    no number can be mistaken for a value of the chain. As in Feng et al., one to three
    increasing runs of distinct numbers, one after another, are planted at random
    positions; together they have at least three numbers.
    """

    group: int = 10
    smallest: int = 121
    number_range: int = 250

    name = "lis"
    token = LIS
    end = SEP
    answer_in_chain = False
    semantic_options = ("group",)

    def __post_init__(self):
        if self.group < 1 or not 2 <= self.smallest < self.number_range:
            raise ValueError(
                "lis: group must be 1 or more and smallest 2 .. number_range - 1, got "
                f"group {self.group}, smallest {self.smallest} and number_range "
                f"{self.number_range}"
            )

    def problem_length(self, problem: Int[Host, " p"]) -> int:
        ids = problem_content(self, problem)
        numbers = [i - FIRST_NUMBER for i in ids]
        if not all(self.smallest <= n < self.number_range for n in numbers):
            raise ValueError(
                f"lis: a problem is numbers {self.smallest}..{self.number_range - 1} "
                f"with spaces between them, as in {self.smallest} {self.number_range - 1}"
            )
        return len(numbers)

    def num_rounds(self, length: int) -> int:
        return -(-length // self.group)

    def problem_size(self, length: int) -> int:
        return length + 2

    def round_size(self, length: int) -> int:
        return self.group + 1

    def chain_size(self, length: int) -> int:
        return self.num_rounds(length) * self.round_size(length)

    def max_number(self, length: int) -> int:
        return self.number_range - 1

    def sample(self, rng: np.random.Generator, length: Int[Host, " b"]) -> Examples:
        check_length(self, length)
        longest = int(length.max(initial=1))
        room = min(self.smallest - 1, self.number_range - self.smallest)
        if longest > room:
            raise ValueError(
                f"lis: length {longest} is out of range: with smallest {self.smallest} "
                f"and number_range {self.number_range} it is at most {room} (numbers "
                "must be above every length, and distinct within a run)"
            )
        numbers = self._numbers(rng, length, longest)
        num, row = len(length), np.arange(len(length))
        inside = np.arange(longest) < length[:, None]
        problem = empty_tokens(num, longest + 2)
        problem[:, 0] = LIS
        problem[:, 1:-1] = np.where(inside, FIRST_NUMBER + numbers, PAD)
        problem[row, length + 1] = SEP
        return self.solve(problem, length)

    def solve(self, problem: Int[Host, "b p"], length: Int[Host, " b"]) -> Examples:
        num, longest = len(problem), int(length.max(initial=1))
        inside = np.arange(longest) < length[:, None]
        # Values past the end of a sequence are not used.
        values = subsequence_lengths(problem[:, 1 : 1 + longest])

        num_rounds = -(-length // self.group)
        max_rounds = self.num_rounds(longest)
        slot = np.arange(max_rounds * self.group)[None]
        index = np.minimum(slot, length[:, None] - 1)  # an incomplete group repeats
        predicted = FIRST_NUMBER + np.take_along_axis(values, index, axis=1)
        rounds = empty_tokens(num, max_rounds, self.group + 1)
        rounds[..., :-1] = predicted.reshape(num, max_rounds, self.group)
        rounds[..., -1] = SEP
        rounds[np.arange(max_rounds) >= num_rounds[:, None]] = PAD
        best = np.max(values, axis=1, where=inside, initial=0)
        answer = (FIRST_NUMBER + best).astype(TOKEN_TYPE)
        return Examples(problem, rounds, num_rounds, answer, length.copy())

    def _numbers(self, rng, length, longest):
        """Random numbers with increasing runs in them."""
        num, span = len(length), self.number_range - self.smallest
        planted, stop = self._runs(rng, length)
        draw = rng.random((num, longest))
        draw[np.arange(longest) >= length[:, None]] = 1.0  # past the end
        limit = np.take_along_axis(np.sort(draw, axis=1), planted[:, None] - 1, axis=1)
        chosen = draw <= limit
        index = np.arange(longest)[None]
        run = np.sum(index[..., None] >= stop[:, None], axis=-1)  # of a planted number
        distinct = np.zeros((num, longest), np.int64)
        for label in range(MAX_RUNS):
            shuffled = rng.permuted(np.tile(np.arange(span), (num, 1)), axis=1)
            distinct = np.where(run == label, shuffled[:, :longest], distinct)
        ascending = np.sort(run * span + distinct, axis=1) % span  # within each run
        which = np.maximum(np.cumsum(chosen, axis=1) - 1, 0)
        numbers = rng.integers(span, size=(num, longest))
        numbers = np.where(
            chosen, np.take_along_axis(ascending, which, axis=1), numbers
        )
        return self.smallest + numbers

    def _runs(self, rng, length):
        """The total length of the runs, and the number in it after which each ends."""
        count = rng.integers(1, MAX_RUNS + 1, size=len(length))
        planted = rng.integers(np.minimum(length, MIN_PLANTED), length + 1)
        stop = np.zeros((len(length), MAX_RUNS), np.int64)
        done = np.zeros(len(length), np.int64)
        for k in range(MAX_RUNS):
            left, runs_left = planted - done, np.maximum(count - k, 1)
            size = np.minimum(rng.integers(1, left // runs_left + 2), left)
            done = done + np.where(runs_left == 1, left, size)
            stop[:, k] = done
        return planted, stop

    def chain_answer(
        self, rounds: Int[Host, "b t r"], num_rounds: Int[Host, " b"]
    ) -> Int[Host, " b"]:
        """The largest value of each chain."""
        in_chain = np.arange(rounds.shape[1])[None] < num_rounds[:, None]
        is_value = in_chain[..., None] & (rounds >= FIRST_NUMBER)
        return np.max(np.where(is_value, rounds, PAD), axis=(1, 2))

    def scratchpad(self, problem: Int[Array, "b n"], num_loops: int) -> Scratchpad:
        """The memory has each value below its number, and 0 below the task token.

        0 is the value of an empty sequence. Pointers link a group's numbers to the
        columns in which their values are predicted.

            problem      [LIS]  3   9   4   7   5  <sep>
            memory         0    1   2   2   3   .    .     after loop 1 (groups of 4)
            pointers 0                          1          loop 2 reads this number ...
            pointers 1              1   1   1   1          ... and predicts its value here
        """
        num, width = problem.shape
        column = jnp.arange(width)[None, None]
        start = jnp.argmax(problem == LIS, axis=1)[None, :, None]
        index = column - start - 1  # of the number in this column
        length = width - 2 - start
        is_number = (index >= 0) & (index < length)

        loop = jnp.arange(num_loops)[:, None, None]
        slot = index - loop * self.group  # index within this loop's group
        in_group = is_number & (slot >= 0) & (slot < self.group)
        output = column - (width - 1 - self.group)  # slot predicted in this column
        last = length - 1 - loop * self.group
        is_output = (output >= 0) & (output < self.group) & (last >= 0)
        pointers = [
            jnp.where(in_group, slot + 1, 0),
            jnp.where(is_output, jnp.minimum(output, last) + 1, 0),
        ]
        return Scratchpad(
            initial=jnp.where(problem == LIS, FIRST_NUMBER, PAD),
            copy_from=jnp.where(in_group, slot + width - 1 - self.group, -1),
            constants=jnp.full((num_loops, num, width), -1),
            pointers=jnp.stack(pointers, axis=-1),
            shows_problem=True,
            has_differences=False,
        )


def subsequence_lengths(numbers: Int[Host, "b n"]) -> Int[Host, "b n"]:
    """Length of the longest increasing subsequence that ends at each number, by row."""
    values = np.ones_like(numbers)
    for i in range(1, numbers.shape[1]):
        smaller = numbers[:, :i] < numbers[:, i : i + 1]
        best = np.max(values[:, :i], axis=1, where=smaller, initial=0)
        values[:, i] = best + 1
    return values
