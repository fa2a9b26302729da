"""Arithmetic over the integers modulo a prime, one operation per round.

    [ARI]3*2+6/3=   ->   6+6/3=   ->   6+2=   ->   8

A problem of length T has T operators. It is generated from a single number: T times, a
random number is replaced by a two-operand expression of the same value, in brackets only
where precedence requires them. Each round performs one operation, so a chain has T
rounds, and the last one is the answer (Feng et al. 2023; RELAY, section 4.1).

Each round performs the leftmost operation that precedence permits. A chain that undoes
the replacements, as the published one does, could not be learned: their order cannot be
inferred from the expression, as `1+2-3` may have been extended at either end.
"""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np

from relay_jax.base import Array, Bool, Examples, Host, Int, Scratchpad
from relay_jax.tasks.task import (
    TOKEN_TYPE,
    check_length,
    empty_tokens,
    last_number,
    problem_content,
)
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

RIGHT_HEAVY_TRIES = 4  # expressions, of which the longest is used
_SHAPES = dict(zip((OPEN, CLOSE, PLUS, MINUS, TIMES, DIVIDE), "()++++"))
_OPERATION = re.compile(r"\(n\+n\)|n\+n")  # what a round reduces to a number


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """Expressions with `length` operators; the modulus is a prime, so `/` is defined.

    With `right_heavy` (an option for training that is not in the paper) half of the
    expressions are extended in their right half only, such as `1-(2-(3-4)*2)=`, and are
    the longest of several. The next operation then has many tokens to its left and some
    to its right, as in expressions with more operators.
    """

    modulus: int = 11
    right_heavy: bool = False

    name = "arithmetic"
    token = ARI
    end = EQUALS
    answer_in_chain = True
    semantic_options = ("modulus",)

    def __post_init__(self):
        p = self.modulus
        if p < 2 or any(p % divisor == 0 for divisor in range(2, int(p**0.5) + 1)):
            raise ValueError(f"arithmetic: modulus must be a prime, got {p}")

    def problem_length(self, problem: Int[Host, " p"]) -> int:
        ids = problem_content(self, problem)
        numbers = [i - FIRST_NUMBER for i in ids if i >= FIRST_NUMBER]
        if max(numbers, default=0) >= self.modulus:
            raise ValueError(
                f"arithmetic: numbers are 0..{self.modulus - 1}, modulo {self.modulus}; "
                f"got {max(numbers)}"
            )
        form = "".join(_SHAPES.get(i, "n" if i >= FIRST_NUMBER else "?") for i in ids)
        shorter = _OPERATION.sub("n", form, count=1)
        while shorter != form:
            form, shorter = shorter, _OPERATION.sub("n", shorter, count=1)
        length = sum(PLUS <= i <= DIVIDE for i in ids)
        if form != "n" or not length:
            raise ValueError(
                "arithmetic: a problem is numbers with + - * / between them, and "
                "brackets around operations, as in (2+3)*4="
            )
        return length

    def num_rounds(self, length: int) -> int:
        return length

    def problem_size(self, length: int) -> int:
        brackets = 2 * max(length - 1, 0)  # all operators but the outermost
        return 2 * length + 1 + brackets + 2  # and the task token and `=`

    def round_size(self, length: int) -> int:
        return self.problem_size(max(length - 1, 1)) - 1

    def chain_size(self, length: int) -> int:
        # Each round is an expression with one operator less; the last is just a number.
        return sum(self.problem_size(left) - 1 for left in range(1, length)) + 1

    def max_number(self, length: int) -> int:
        return self.modulus - 1

    def sample(self, rng: np.random.Generator, length: Int[Host, " b"]) -> Examples:
        check_length(self, length)
        longest = int(length.max(initial=1))
        expression = self._grow(rng, length, longest)
        if self.right_heavy:
            is_heavy = rng.random(len(length)) < 0.5
            expression[is_heavy] = self._grow_heavy(rng, length, longest)[is_heavy]
        problem = empty_tokens(len(length), self.problem_size(longest))
        problem[:, 0] = ARI
        problem[:, 1:] = expression
        return self.solve(problem, length)

    def solve(self, problem: Int[Host, "b p"], length: Int[Host, " b"]) -> Examples:
        longest, expression = int(length.max(initial=1)), problem[:, 1:]
        rounds = empty_tokens(len(length), longest, self.round_size(longest))
        for t in range(longest):
            active = t < length
            expression = self._reduce(expression, active)
            round_t = np.where(active[:, None], expression, PAD)
            round_t[t == length - 1, 1:] = PAD  # the last round has no `=`
            rounds[:, t] = round_t[:, : rounds.shape[-1]]
        return Examples(problem, rounds, length.copy(), expression[:, 0], length.copy())

    def _grow_heavy(self, rng, length, longest):
        """The longest of `RIGHT_HEAVY_TRIES` expressions that grew in their right half."""
        tries = [
            self._grow(rng, length, longest, right_half=True)
            for _ in range(RIGHT_HEAVY_TRIES)
        ]
        best = np.argmax(np.sum(np.stack(tries) != PAD, axis=-1), axis=0)
        return np.stack(tries)[best, np.arange(len(length))]

    def _grow(self, rng, length, longest, right_half=False) -> Int[Host, "b n"]:
        """Random expressions of `length` operators, each with its `=`."""
        num, width = len(length), self.problem_size(longest) - 1
        tokens = empty_tokens(num, width)
        tokens[:, 0] = FIRST_NUMBER + rng.integers(self.modulus, size=num)
        tokens[:, 1] = EQUALS
        for k in range(longest):  # k operators so far
            used = min(self.problem_size(k + 1) - 1, width)
            extended = self._grow_once(rng, tokens[:, :used], k, right_half)
            active = k < length
            tokens[active, :used] = extended[active]
        return tokens

    def _grow_once(self, rng, tokens, num_operators: int, right_half: bool):
        """Replaces a random number of each row by `x operator y` of the same value."""
        num, width = tokens.shape
        row = np.arange(num)
        first = (num_operators + 1) // 2 if right_half else 0
        which = rng.integers(first, num_operators + 1, size=num)
        count = np.cumsum(tokens >= FIRST_NUMBER, axis=1, dtype=TOKEN_TYPE)
        column = np.argmax(count == which[:, None] + 1, axis=1)  # of the number
        # A row without that many numbers is finished, and its value is not used.
        value = np.maximum(tokens[row, column], FIRST_NUMBER) - FIRST_NUMBER
        before = np.where(column > 0, tokens[row, column - 1], PAD)
        after = tokens[row, np.minimum(column + 1, width - 1)]

        x, operator, y = self._operations(rng, value)
        bracket = needs_brackets(before, operator, after)
        added = np.where(bracket, 4, 2)[:, None]  # tokens besides the number's
        index = np.arange(width)[None]
        moved = index - added * (index > column[:, None] + added)
        extended = np.take_along_axis(tokens, moved, axis=1)
        extended[row[bracket], column[bracket]] = OPEN
        extended[row[bracket], column[bracket] + 4] = CLOSE
        start = column + bracket
        extended[row, start] = FIRST_NUMBER + x
        extended[row, start + 1] = operator
        extended[row, start + 2] = FIRST_NUMBER + y
        return extended

    def _reduce(self, tokens, active):
        """Replaces the leftmost operation that can be done by its value.

        Brackets are removed with the last operation inside.
        """
        row, index = np.arange(len(tokens)), np.arange(tokens.shape[1])[None]
        around = np.pad(tokens, ((0, 0), (2, 2)))
        before, x = around[:, :-4], around[:, 1:-3]
        y, after = around[:, 3:-1], around[:, 4:]
        column = np.argmax(is_reducible(before, x, tokens, y, after), axis=1)
        bracket = (before[row, column] == OPEN) & (after[row, column] == CLOSE)
        # A finished row has no operation left, and its value is not used.
        x, y = np.maximum([x[row, column], y[row, column]], FIRST_NUMBER) - FIRST_NUMBER
        if np.any(active & (tokens[row, column] == DIVIDE) & (y == 0)):
            raise ValueError("arithmetic: the divisor of a quotient is 0")
        value = self._apply(tokens[row, column], x, y)
        start = np.maximum(column - 1 - bracket, 0)
        removed = np.where(bracket, 4, 2)[:, None] * (index > start[:, None])
        padded = np.pad(tokens, ((0, 0), (0, 4)))
        reduced = np.take_along_axis(padded, index + removed, axis=1)
        reduced[row, start] = FIRST_NUMBER + value
        return np.where(active[:, None], reduced, tokens)

    def _apply(self, operator, x, y):
        """`x operator y` modulo p."""
        x, y = x.astype(np.int64), y.astype(np.int64)
        cases = [operator == PLUS, operator == MINUS, operator == TIMES]
        quotient = x * self._inverse()[y]
        return np.select(cases, [x + y, x - y, x * y], quotient) % self.modulus

    def _inverse(self):
        """1 / y for every y; 0 for y = 0, whose quotients are never used."""
        p = self.modulus
        return np.array([0] + [pow(y, -1, p) for y in range(1, p)])

    def _operations(self, rng, value):
        """Random x, operator, y with `x operator y = value`, as published.

        x and the operator are drawn, each as likely, and determine y; where they allow
        none, both are drawn again. Where they allow all, as in `0 * y = 0`, y is drawn.
        """
        p, inverse = self.modulus, self._inverse()
        x, operator, y = np.zeros((3, len(value)), TOKEN_TYPE)
        left = np.arange(len(value))  # rows not drawn yet
        while len(left):
            v, size = value[left], len(left)
            u, any_y = rng.integers(p, size=(2, size))
            op = rng.integers(PLUS, DIVIDE + 1, size=size)
            factor = np.where((u == 0) & (v == 0), any_y, v * inverse[u])
            divisor = np.where((u == 0) & (v == 0), any_y, u * inverse[v])
            cases = [op == PLUS, op == MINUS, op == TIMES]
            w = np.select(cases, [v - u, u - v, factor], divisor) % p
            fits = np.where(op == TIMES, (u != 0) | (v == 0), (op != DIVIDE) | (w != 0))
            x[left[fits]], operator[left[fits]], y[left[fits]] = (
                u[fits],
                op[fits],
                w[fits],
            )
            left = left[~fits]
        return x, operator, y

    def chain_answer(
        self, rounds: Int[Host, "b t r"], num_rounds: Int[Host, " b"]
    ) -> Int[Host, " b"]:
        return last_number(rounds, num_rounds)

    def scratchpad(self, problem: Int[Array, "b n"], num_loops: int) -> Scratchpad:
        """The memory is the last round: rounds are Markov, so nothing else is needed."""
        shape = (num_loops, *problem.shape)
        return Scratchpad(
            initial=jnp.where(problem == ARI, PAD, problem),
            copy_from=jnp.broadcast_to(jnp.arange(problem.shape[1]), shape),
            constants=jnp.full(shape, -1),
            pointers=jnp.zeros((*shape, 2), jnp.int32),
            shows_problem=False,
            has_differences=False,
        )


def is_reducible(
    before: Int[Host, "b n"],
    x: Int[Host, "b n"],
    operator: Int[Host, "b n"],
    y: Int[Host, "b n"],
    after: Int[Host, "b n"],
) -> Bool[Host, "b n"]:
    """Whether `x operator y`, between the tokens before and after, can be done now.

    Its operands must be numbers, and no operation that precedes it by the usual rules
    (`*` and `/` before `+` and `-`, then from left to right) may use one of them.
    """
    is_sum = (operator == PLUS) | (operator == MINUS)
    is_product = (operator == TIMES) | (operator == DIVIDE)
    follows_product = (before == TIMES) | (before == DIVIDE)
    precedes_product = (after == TIMES) | (after == DIVIDE)
    starts = (before == PAD) | (before == OPEN)
    has_precedence = np.where(
        is_sum, starts & ~precedes_product, is_product & ~follows_product
    )
    return (x >= FIRST_NUMBER) & (y >= FIRST_NUMBER) & has_precedence


def needs_brackets(
    before: Int[Host, " b"], operator: Int[Host, " b"], after: Int[Host, " b"]
) -> Bool[Host, " b"]:
    """Whether `x operator y` needs brackets between these two neighbouring tokens."""
    is_sum = operator <= MINUS
    inside_product = (before == TIMES) | (before == DIVIDE)
    inside_product |= (after == TIMES) | (after == DIVIDE)
    return np.where(is_sum, inside_product | (before == MINUS), before == DIVIDE)
