"""What a task is: it samples problems of a given length and solves them round by round.

A chain is written by solving the problem, so it cannot disagree with its answer. All of
it is vectorised NumPy, a whole block of examples a call.
"""

from typing import Protocol, SupportsIndex, runtime_checkable

import numpy as np

from relay_jax.base import Array, Examples, Host, Int, Scratchpad
from relay_jax.vocabulary import FIRST_NUMBER, PAD

TOKEN_TYPE = np.int16  # of tokens on the host; `check_length` keeps numbers within it


@runtime_checkable
class Task(Protocol):
    """One reasoning problem family. See `Arithmetic` for the shortest example."""

    name: str
    token: int  # the task token, first in every problem
    answer_in_chain: bool  # whether the last round is the answer itself

    @property
    def semantic_options(self) -> tuple[str, ...]:
        """The options that say what is right, not which problems come."""
        ...

    def sample(self, rng: np.random.Generator, length: Int[Host, " b"]) -> Examples:
        """Draws one problem of each length and solves it."""
        ...

    def num_rounds(self, length: int) -> int:
        """T: how many rounds a problem of this length has, hence how many loops."""
        ...

    def problem_size(self, length: int) -> int:
        """The most tokens that a problem of this length can have."""
        ...

    def round_size(self, length: int) -> int:
        """The most tokens that one of its rounds can have."""
        ...

    def chain_size(self, length: int) -> int:
        """The most tokens that all of its rounds together can have."""
        ...

    def max_number(self, length: int) -> int:
        """The largest number that its problem or chain can hold."""
        ...

    def chain_answer(
        self, rounds: Int[Host, "b t r"], num_rounds: Int[Host, " b"]
    ) -> Int[Host, " b"]:
        """What chains, right or wrong, amount to: read off their (left-aligned) rounds,
        `<pad>` where there is nothing to read."""
        ...

    def scratchpad(self, problem: Int[Array, "b n"], num_loops: int) -> Scratchpad:
        """Memory and pointers for right-aligned problems."""
        ...


def last_number(
    rounds: Int[Host, "b t r"], num_rounds: Int[Host, " b"]
) -> Int[Host, " b"]:
    """The last number of each chain's last round; `<pad>` where it has none."""
    row = np.arange(len(rounds))
    last = rounds[row, num_rounds - 1, ::-1]
    is_number = last >= FIRST_NUMBER
    found = last[row, np.argmax(is_number, axis=1)]
    return np.where(np.any(is_number, axis=1), found, PAD)


def check_length(task: Task, length: Int[Host, " b"], lowest: int = 1) -> None:
    """Raises ValueError where a length is below the task's shortest problem, or needs
    numbers whose tokens do not fit `TOKEN_TYPE`."""
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
            f"{task.name}: problems of length {longest} hold numbers up to "
            f"{task.max_number(longest)}, but tokens have room for numbers up to "
            f"{room}; use shorter problems or smaller numbers"
        )


def empty_tokens(*shape: SupportsIndex) -> Host:
    """A host array of `<pad>`."""
    return np.full(shape, PAD, TOKEN_TYPE)
