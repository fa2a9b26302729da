"""Arithmetic over the integers modulo a prime, one reduction a round.

    [ARI]3*2+6/3=   ->   6+6/3=   ->   6+2=   ->   8

A problem of length T has T operators. It grows from a single number: T times, a random
number becomes an equal two-operand expression, in brackets only where precedence needs
them. The chain undoes these steps one at a time, so it has T rounds, and its last round
is the answer (Feng et al. 2023; RELAY section 4.1).
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from relay_jax.arrays import Array, Host, Int
from relay_jax.tasks.task import Examples, Workspace, check_length, empty_tokens
from relay_jax.tokens import (
    ARI,
    CLOSE,
    DIVIDE,
    EQUALS,
    FIRST_NUMBER,
    MINUS,
    OPEN,
    PAD,
    PLUS,
    TIMES,
)


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """Length: number of operators. `modulus` is a prime, so that `/` has a meaning."""

    modulus: int = 11

    name = "arithmetic"
    token = ARI
    answer_in_chain = True

    def __post_init__(self):
        p = self.modulus
        if p < 2 or any(p % divisor == 0 for divisor in range(2, int(p**0.5) + 1)):
            raise ValueError(f"arithmetic: modulus must be a prime, got {p}")

    def num_rounds(self, length: int) -> int:
        return length

    def problem_size(self, length: int) -> int:
        brackets = 2 * max(length - 1, 0)  # all operators but the outermost
        return 2 * length + 1 + brackets + 2  # and the task token and `=`

    def round_size(self, length: int) -> int:
        return self.problem_size(max(length - 1, 1)) - 1

    def max_number(self, length: int) -> int:
        return self.modulus - 1

    def sample(self, rng: np.random.Generator, length: Int[Host, " b"]) -> Examples:
        check_length(self, length)
        longest = int(length.max(initial=1))
        states = self._grow(rng, length, longest)

        row = np.arange(len(length))
        problem = empty_tokens(len(length), self.problem_size(longest))
        problem[:, 0] = ARI
        problem[:, 1:] = states[length, row]
        rounds = empty_tokens(len(length), longest, self.round_size(longest))
        for t in range(1, longest + 1):
            stage = length - t  # round t is the expression with T - t operators
            told = states[np.maximum(stage, 0), row, : rounds.shape[-1]]
            rounds[:, t - 1] = np.where((stage >= 0)[:, None], told, PAD)
        answer = states[0, :, 0]
        return Examples(problem, rounds, length.copy(), answer, length.copy())

    def _grow(self, rng, length, longest):
        """All stages of all expressions: states[k] has k operators (and `=` if k > 0)."""
        num, width = len(length), self.problem_size(longest) - 1
        states = np.full((longest + 1, num, width), PAD, np.int16)
        states[0, :, 0] = FIRST_NUMBER + rng.integers(self.modulus, size=num)
        size = np.ones(num, np.int64)  # without `=`
        row = np.arange(num)
        for k in range(longest):
            live = min(self.problem_size(k + 1) - 1, width)
            old = states[k, :, :live]
            which = rng.integers(k + 1, size=num)
            count = np.cumsum(old >= FIRST_NUMBER, axis=1, dtype=np.int16)
            place = np.argmax(count == which[:, None] + 1, axis=1)
            value = old[row, place] - FIRST_NUMBER
            before = np.where(place > 0, old[row, place - 1], PAD)
            after = old[row, np.minimum(place + 1, live - 1)]

            operator = rng.integers(PLUS, DIVIDE + 1, size=num)
            x, y = self._operands(rng, value, operator)
            bracket = needs_brackets(before, operator, after)
            grown = np.where(bracket, 5, 3)  # tokens that replace the one number

            column = np.arange(live)[None]
            past = column >= (place + grown)[:, None]
            new = np.take_along_axis(old, column - past * (grown[:, None] - 1), axis=1)
            first = place + bracket
            new[row[bracket], place[bracket]] = OPEN
            new[row[bracket], place[bracket] + 4] = CLOSE
            new[row, first] = FIRST_NUMBER + x
            new[row, first + 1] = operator
            new[row, first + 2] = FIRST_NUMBER + y
            size += grown - 1
            if k == 0:
                new[row, size] = EQUALS
            states[k + 1, :, :live] = new
        return states

    def _operands(self, rng, value, operator):
        """x, y with `x operator y = value`; y is never 0 in a product or a quotient."""
        p = self.modulus
        inverse = np.array([0] + [pow(i, -1, p) for i in range(1, p)])
        any_y = rng.integers(p, size=len(value))
        unit = rng.integers(1, p, size=len(value))
        y = np.where(operator >= TIMES, unit, any_y)
        x = np.select(
            [operator == PLUS, operator == MINUS, operator == TIMES],
            [value - y, value + y, value * inverse[y]],
            value * y,
        )
        return x % p, y

    def workspace(self, problem: Int[Array, "b n"], num_loops: int) -> Workspace:
        """The rounds are Markov: what was said last is all that the next loop needs."""
        shape = (num_loops, *problem.shape)
        return Workspace(
            memory=jnp.where(problem == ARI, PAD, problem),
            source=jnp.broadcast_to(jnp.arange(problem.shape[1]), shape),
            given=jnp.full(shape, -1),
            marks=jnp.zeros((*shape, 2), jnp.int32),
            reads_problem=False,
            has_differences=False,
        )


def needs_brackets(before, operator, after):
    """Whether `x operator y` needs brackets between these two neighbouring tokens."""
    is_sum = operator <= MINUS
    inside_product = (before == TIMES) | (before == DIVIDE)
    inside_product |= (after == TIMES) | (after == DIVIDE)
    return np.where(is_sum, inside_product | (before == MINUS), before == DIVIDE)
