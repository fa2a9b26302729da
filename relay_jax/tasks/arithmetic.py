"""Arithmetic over the integers modulo a prime, one reduction a round.

    [ARI]3*2+6/3=   ->   6+6/3=   ->   6+2=   ->   8

A problem of length T has T operators. It grows from a single number: T times, a random
number becomes an equal two-operand expression, in brackets only where precedence needs
them. The chain takes one operation back a round, so it has T rounds, and its last round
is the answer (Feng et al. 2023; RELAY section 4.1).

Each round reduces the leftmost operation that precedence permits. The order in which the
expression grew would not do: it cannot be inferred from the expression, as `1+2-3` may
have grown from either end.
"""

import dataclasses
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from relay_jax.base import Array, Bool, Examples, Host, Int, Scratchpad
from relay_jax.tasks.task import TOKEN_TYPE, check_length, empty_tokens, last_number
from relay_jax.vocabulary import (
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

RIGHT_HEAVY_TRIES = 4


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """Length: number of operators. `modulus` is a prime, so that `/` has a meaning.

    With `right_heavy` (for training; not in the paper) half of the expressions grow in their
    right half alone, as `1-(2-(3-4)*2)=` did, and are the longest of a few: much then
    stands left of the operation that is due, and something right of it, as it does where
    there are more operators.

    """

    modulus: int = 11
    right_heavy: bool = False

    name = "arithmetic"
    token = ARI
    answer_in_chain = True
    semantic_options = ("modulus",)

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

    def chain_size(self, length: int) -> int:
        # Every round is an expression of one operator less; the last is a number alone.
        return sum(self.problem_size(left) - 1 for left in range(1, length)) + 1

    def max_number(self, length: int) -> int:
        return self.modulus - 1

    def sample(self, rng: np.random.Generator, length: Int[Host, " b"]) -> Examples:
        check_length(self, length)
        longest = int(length.max(initial=1))
        expression = list(self._grow(rng, length, longest))[-1]
        if self.right_heavy:
            leans = rng.random(len(length)) < 0.5
            expression[leans] = self._right_heavy_expression(rng, length, longest)[
                leans
            ]
        problem = empty_tokens(len(length), self.problem_size(longest))
        problem[:, 0] = ARI
        problem[:, 1:] = expression

        rounds = empty_tokens(len(length), longest, self.round_size(longest))
        for t in range(longest):
            expression = self._reduce(expression, t < length)
            told = np.where((t < length)[:, None], expression, PAD)
            # After the last operation the number stands alone, without `=`.
            told[t == length - 1, 1:] = PAD
            rounds[:, t] = told[:, : rounds.shape[-1]]
        answer = expression[:, 0]
        return Examples(problem, rounds, length.copy(), answer, length.copy())

    def _right_heavy_expression(self, rng, length, longest):
        """The longest of `RIGHT_HEAVY_TRIES` expressions that grew in their right half."""
        tries = np.stack(
            [
                list(self._grow(rng, length, longest, leans=True))[-1]
                for _ in range(RIGHT_HEAVY_TRIES)
            ]
        )
        best = np.argmax(np.sum(tries != PAD, axis=-1), axis=0)
        return tries[best, np.arange(len(length))]

    def _grow(self, rng, length, longest, leans=False) -> Iterator[Int[Host, "b n"]]:
        """Expressions, each with its `=`, padded on the right: one array, as it is after
        0, 1, ... `longest` steps; an expression of `length` operators grows no more."""
        num, width = len(length), self.problem_size(longest) - 1
        tokens = empty_tokens(num, width)
        tokens[:, 0] = FIRST_NUMBER + rng.integers(self.modulus, size=num)
        tokens[:, 1] = EQUALS
        yield tokens
        for k in range(longest):
            live = min(self.problem_size(k + 1) - 1, width)
            active = k < length
            old = tokens[:, :live]
            row = np.arange(num)
            first = (k + 1) // 2 if leans else 0
            which = rng.integers(first, k + 1, size=num)
            count = np.cumsum(old >= FIRST_NUMBER, axis=1, dtype=TOKEN_TYPE)
            place = np.argmax(count == which[:, None] + 1, axis=1)
            value = old[row, place] - FIRST_NUMBER
            before = np.where(place > 0, old[row, place - 1], PAD)
            after = old[row, np.minimum(place + 1, live - 1)]

            operator = rng.integers(PLUS, DIVIDE + 1, size=num)
            x, y = self._operands(rng, value, operator)
            bracket = needs_brackets(before, operator, after)
            added = np.where(bracket, 4, 2)[:, None]  # tokens besides the one number
            column = np.arange(live)[None]
            moved = column - added * (column > place[:, None] + added)
            new = np.take_along_axis(old, moved, axis=1)
            new[row[bracket], place[bracket]] = OPEN
            new[row[bracket], place[bracket] + 4] = CLOSE
            first = place + bracket
            new[row, first] = FIRST_NUMBER + x
            new[row, first + 1] = operator
            new[row, first + 2] = FIRST_NUMBER + y
            tokens[active, :live] = new[active]
            yield tokens

    def _reduce(self, tokens, active):
        """Replaces the leftmost operation that can be done by its value; brackets go
        with their last operation."""
        row, column = np.arange(len(tokens)), np.arange(tokens.shape[1])[None]
        around = np.pad(tokens, ((0, 0), (2, 2)))
        before, x = around[:, :-4], around[:, 1:-3]
        y, after = around[:, 3:-1], around[:, 4:]
        is_sum = (tokens == PLUS) | (tokens == MINUS)
        is_product = (tokens == TIMES) | (tokens == DIVIDE)
        ready = (x >= FIRST_NUMBER) & (y >= FIRST_NUMBER)
        ready &= np.where(
            is_sum,
            ((before == PAD) | (before == OPEN)) & (after != TIMES) & (after != DIVIDE),
            is_product & (before != TIMES) & (before != DIVIDE),
        )
        place = np.argmax(ready, axis=1)
        bracket = (before[row, place] == OPEN) & (after[row, place] == CLOSE)
        # A finished row has no operation: its value is never used.
        x, y = np.maximum([x[row, place], y[row, place]], FIRST_NUMBER) - FIRST_NUMBER
        value = self._apply(tokens[row, place], x, y)
        first = np.maximum(place - 1 - bracket, 0)
        removed = np.where(bracket, 4, 2)[:, None] * (column > first[:, None])
        padded = np.pad(tokens, ((0, 0), (0, 4)))
        reduced = np.take_along_axis(padded, column + removed, axis=1)
        reduced[row, first] = FIRST_NUMBER + value
        return np.where(active[:, None], reduced, tokens)

    def _apply(self, operator, x, y):
        """`x operator y` modulo p."""
        x, y = x.astype(np.int64), y.astype(np.int64)
        cases = [operator == PLUS, operator == MINUS, operator == TIMES]
        quotient = x * self._inverse()[y]
        return np.select(cases, [x + y, x - y, x * y], quotient) % self.modulus

    def _inverse(self):
        """1 / y for every y; 0 stands for the inverse of 0, which is never asked for."""
        p = self.modulus
        return np.array([0] + [pow(y, -1, p) for y in range(1, p)])

    def _operands(self, rng, value, operator):
        """x, y with `x operator y = value`; y is never 0 in a product or a quotient."""
        p = self.modulus
        any_y = rng.integers(p, size=len(value))
        unit = rng.integers(1, p, size=len(value))
        y = np.where(operator >= TIMES, unit, any_y)
        x = np.select(
            [operator == PLUS, operator == MINUS, operator == TIMES],
            [value - y, value + y, value * self._inverse()[y]],
            value * y,
        )
        return x % p, y

    def chain_answer(
        self, rounds: Int[Host, "b t r"], num_rounds: Int[Host, " b"]
    ) -> Int[Host, " b"]:
        return last_number(rounds, num_rounds)

    def scratchpad(self, problem: Int[Array, "b n"], num_loops: int) -> Scratchpad:
        """The rounds are Markov: what was said last is all that the next loop needs."""
        shape = (num_loops, *problem.shape)
        return Scratchpad(
            initial=jnp.where(problem == ARI, PAD, problem),
            copy_from=jnp.broadcast_to(jnp.arange(problem.shape[1]), shape),
            constants=jnp.full(shape, -1),
            pointers=jnp.zeros((*shape, 2), jnp.int32),
            shows_problem=False,
            has_differences=False,
        )


def needs_brackets(
    before: Int[Host, " b"], operator: Int[Host, " b"], after: Int[Host, " b"]
) -> Bool[Host, " b"]:
    """Whether `x operator y` needs brackets between these two neighbouring tokens."""
    is_sum = operator <= MINUS
    inside_product = (before == TIMES) | (before == DIVIDE)
    inside_product |= (after == TIMES) | (after == DIVIDE)
    return np.where(is_sum, inside_product | (before == MINUS), before == DIVIDE)
