"""The interface of a task: problems of a given length and their solution by rounds.

A chain comes from solving the problem, so it always agrees with the answer. Everything is
vectorized NumPy: one call generates a whole block of examples.
"""

from collections.abc import Sequence
from typing import Protocol, SupportsIndex, runtime_checkable

import numpy as np

from relay_jax.base import Array, Examples, Host, Int, Scratchpad
from relay_jax.vocabulary import FIRST_NUMBER, PAD

TOKEN_TYPE = np.int16  # of tokens on the host; `check_length` ensures that numbers fit


@runtime_checkable
class Task(Protocol):
    """A family of reasoning problems (RELAY, section 4.1).

    `LongestIncreasingSubsequence` is the shortest example.
    """

    name: str
    token: int  # the task token, first in every problem
    end: int  # the token that ends every problem
    answer_in_chain: bool  # whether the last round is the answer itself

    @property
    def semantic_options(self) -> tuple[str, ...]:
        """Names of options that change what a correct chain is, not which problems occur."""
        ...

    def sample(self, rng: np.random.Generator, length: Int[Host, " b"]) -> Examples:
        """One random problem of each length, with its chain and answer."""
        ...

    def solve(self, problem: Int[Host, "b p"], length: Int[Host, " b"]) -> Examples:
        """The examples of left-aligned problems, with their chains and answers.

        Args:
          problem: with task token and end mark, in `problem_size` columns of the longest.
          length: of each problem, from `problem_length`.

        Raises:
          ValueError: a problem has no answer.
        """
        ...

    def problem_length(self, problem: Int[Host, " p"]) -> int:
        """The length of a problem from its tokens.

        Raises:
          ValueError: it is not a problem of this task.
        """
        ...

    def num_rounds(self, length: int) -> int:
        """T, the number of rounds (and of loops) of problems of this length."""
        ...

    def problem_size(self, length: int) -> int:
        """The maximum number of tokens of a problem of this length."""
        ...

    def round_size(self, length: int) -> int:
        """The maximum number of tokens of one of its rounds."""
        ...

    def chain_size(self, length: int) -> int:
        """The maximum number of tokens of all its rounds together."""
        ...

    def max_number(self, length: int) -> int:
        """The largest number that the problem or its chain can contain."""
        ...

    def chain_answer(
        self, rounds: Int[Host, "b t r"], num_rounds: Int[Host, " b"]
    ) -> Int[Host, " b"]:
        """The answer at which each chain of left-aligned rounds arrives, or `<pad>`.

        The chains are those that a model predicted: they may be wrong.
        """
        ...

    def scratchpad(self, problem: Int[Array, "b n"], num_loops: int) -> Scratchpad:
        """The scratchpad of right-aligned problems, for `num_loops` iterations.

        It is for round feedback, which is not in the paper.
        """
        ...


def last_number(
    rounds: Int[Host, "b t r"], num_rounds: Int[Host, " b"]
) -> Int[Host, " b"]:
    """The last number of each chain's last round; `<pad>` if that has no number."""
    row = np.arange(len(rounds))
    last = rounds[row, num_rounds - 1, ::-1]
    is_number = last >= FIRST_NUMBER
    found = last[row, np.argmax(is_number, axis=1)]
    return np.where(np.any(is_number, axis=1), found, PAD)


def check_length(task: Task, length: Int[Host, " b"], lowest: int = 1) -> None:
    """Checks that a task has problems of these lengths.

    Raises:
      ValueError: a length is below `lowest`, or needs numbers whose tokens do not fit
        `TOKEN_TYPE`.
    """
    if not length.size:
        return
    if length.min() < lowest:
        raise ValueError(
            f"{task.name}: length {length.min()} is out of range; "
            f"problems have a length of {lowest} or more"
        )
    longest, room = int(length.max()), np.iinfo(TOKEN_TYPE).max - FIRST_NUMBER
    if task.max_number(longest) > room:
        raise ValueError(
            f"{task.name}: problems of length {longest} contain numbers up to "
            f"{task.max_number(longest)}, but tokens can only represent numbers up to "
            f"{room}; use shorter problems or smaller numbers"
        )


def problem_content(task: Task, problem: Int[Host, " p"]) -> list[int]:
    """The tokens between the task token and the end mark of a problem.

    Raises:
      ValueError: it does not begin and end with them.
    """
    ids = problem.tolist()
    if len(ids) < 3 or ids[0] != task.token or ids[-1] != task.end:
        raise ValueError(
            f"{task.name}: a problem has tokens between its task token and its end mark"
        )
    return ids[1:-1]


def stack_problems(
    problems: Sequence[Sequence[int] | Int[Host, "_"]], width: int = 0
) -> Int[Host, "b n"]:
    """Problems of different sizes as rows, with `<pad>` after each.

    Args:
      width: the minimum number of columns.
    """
    stacked = empty_tokens(len(problems), max(width, *map(len, problems)))
    for row, ids in zip(stacked, problems):
        row[: len(ids)] = ids
    return stacked


def empty_tokens(*shape: SupportsIndex) -> Host:
    """A host array of `<pad>`."""
    return np.full(shape, PAD, TOKEN_TYPE)
