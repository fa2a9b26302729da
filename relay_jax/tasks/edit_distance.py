"""Edit distance by dynamic programming, one row of the matrix per round.

    [ED]ab|acb<sep>   ->   0 2 4 ,   ->   2 3 2 ,        answer 2

Insertions and deletions cost 2, replacements 3. Round t is row t of the matrix without
column 0, followed by `,`; the answer is the last entry of the last row (Feng et al. 2023;
RELAY, section 4.1). Row 0 and column 0 are 0, 2, 4, ... as in the textbook; in the data
that Feng et al. published they are 0, 1, 2, ... (`border_cost`).
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from relay_jax.base import Array, Examples, Host, Int, Scratchpad
from relay_jax.tasks.task import (
    TOKEN_TYPE,
    check_length,
    empty_tokens,
    last_number,
    problem_content,
)
from relay_jax.vocabulary import (
    BAR,
    COMMA,
    ED,
    FIRST_LETTER,
    FIRST_NUMBER,
    NUM_LETTERS,
    PAD,
    SEP,
)

GAP = 2  # the cost of an insertion or a deletion
PUBLISHED_EXTRA = 3  # letters by which published strings differ at most
BORDER_COSTS = (GAP, 1)  # the textbook's, the published data's
REPLACE = 3
INDEPENDENT_SHARE = 0.4


@dataclasses.dataclass(frozen=True)
class EditDistance:
    """Pairs of strings; `length` is the number of letters of the shorter one, s1.

    Each pair uses 3 to `using + 2` distinct letters; s2 is at most `max_extra` letters
    longer than s1. In 40 % of the pairs the strings are independent, otherwise s2 is s1
    after 1 to `length` random edits. Each step along row 0 and column 0 of the matrix
    costs `border_cost`, 2 or 1.
    """

    using: int = 8
    max_extra: int = 2
    border_cost: int = GAP

    name = "edit_distance"
    token = ED
    end = SEP
    answer_in_chain = False
    semantic_options = ("border_cost",)

    def __post_init__(self):
        if not 1 <= self.using <= NUM_LETTERS - 2:
            raise ValueError(
                f"edit_distance: using must be 1..{NUM_LETTERS - 2}, got {self.using}"
            )
        if self.max_extra < 0:
            raise ValueError(
                f"edit_distance: max_extra must be 0 or more, got {self.max_extra}"
            )
        if self.border_cost not in BORDER_COSTS:
            raise ValueError(
                "edit_distance: border_cost must be 2 (the textbook's) or 1 (as "
                f"published), got {self.border_cost}"
            )

    def problem_length(self, problem: Int[Host, " p"]) -> int:
        ids = problem_content(self, problem)
        bars = [index for index, token in enumerate(ids) if token == BAR]
        letters = [FIRST_LETTER <= i < FIRST_LETTER + NUM_LETTERS for i in ids]
        if len(bars) != 1 or sum(letters) != len(ids) - 1 or not 0 < bars[0]:
            raise ValueError(
                "edit_distance: a problem is two strings of letters a-z with | between "
                "them, as in ab|acb"
            )
        first, second = bars[0], len(ids) - bars[0] - 1
        if not 0 <= second - first <= self.max_extra:
            raise ValueError(
                "edit_distance: the second string is at most "
                f"{self.max_extra} letters longer than the first, and never shorter; got "
                f"{first} and {second} letters"
            )
        return first

    def num_rounds(self, length: int) -> int:
        return length

    def problem_size(self, length: int) -> int:
        return 2 * length + self.max_extra + 3  # with the task token, `|` and `<sep>`

    def round_size(self, length: int) -> int:
        return length + self.max_extra + 1

    def chain_size(self, length: int) -> int:
        return self.num_rounds(length) * self.round_size(length)

    def max_number(self, length: int) -> int:
        return REPLACE * length + self.border_cost * self.max_extra

    def sample(self, rng: np.random.Generator, length: Int[Host, " b"]) -> Examples:
        check_length(self, length)
        first, second, other_length = self._strings(rng, length)
        num, longest = first.shape
        row = np.arange(num)[:, None]

        problem = empty_tokens(num, self.problem_size(longest))
        problem[:, 0] = ED
        column = np.arange(longest)[None]
        problem[row, 1 + column] = np.where(column < length[:, None], first, PAD)
        column = np.arange(second.shape[1])[None]
        inside = column < other_length[:, None]
        target = np.where(inside, length[:, None] + 2 + column, 0)
        problem[row, target] = np.where(inside, second, ED)  # column 0 has [ED] anyway
        problem[row[:, 0], 1 + length] = BAR
        problem[row[:, 0], 2 + length + other_length] = SEP
        return self.solve(problem, length)

    def solve(self, problem: Int[Host, "b p"], length: Int[Host, " b"]) -> Examples:
        num, longest = len(problem), int(length.max(initial=1))
        row = np.arange(num)[:, None]
        other_length = np.sum(problem != PAD, axis=1) - length - 3  # [ED], |, <sep>
        column = np.arange(longest + self.max_extra)[None]
        inside = column < other_length[:, None]
        # Letters past the end of a string change nothing in the columns that are used.
        start = np.minimum(length[:, None] + 2 + column, problem.shape[1] - 1)
        second = np.take_along_axis(problem, start, axis=1)
        first = problem[:, 1 : 1 + longest]

        matrix = distance_rows(first, second, self.border_cost)
        numbers = FIRST_NUMBER + matrix[:, 1:, 1:]
        rounds = empty_tokens(num, longest, self.round_size(longest))
        rounds[..., :-1] = np.where(inside[:, None], numbers, PAD)
        rounds[row, np.arange(longest), other_length[:, None]] = COMMA
        rounds[np.arange(longest)[None] >= length[:, None]] = PAD
        answer = (FIRST_NUMBER + matrix[row[:, 0], length, other_length]).astype(
            TOKEN_TYPE
        )
        return Examples(problem, rounds, length.copy(), answer, length.copy())

    def _strings(self, rng, length):
        """s1, s2 as letter ids, and the length of s2; letters past their ends are unused."""
        num, longest = len(length), int(length.max(initial=1))
        width = longest + self.max_extra
        alphabet = rng.permuted(np.tile(np.arange(NUM_LETTERS), (num, 1)), axis=1)
        letters = rng.integers(3, self.using + 3, size=(num, 1))

        def draw(*shape):
            index = (rng.random((num, *shape)) * letters).astype(np.int64)
            return FIRST_LETTER + np.take_along_axis(alphabet, index, axis=1)

        first = draw(longest)
        second = np.concatenate([first, draw(self.max_extra)], axis=1)
        other_length = length.copy()
        edits = rng.integers(1, length + 1)
        for step in range(longest):
            active = step < edits
            second, other_length = self._edit(
                rng, second, other_length, length, draw(1), active
            )
        independent = rng.random(num) < INDEPENDENT_SHARE
        second = np.where(independent[:, None], draw(width), second)
        random_length = length + rng.integers(self.max_extra + 1, size=num)
        return first, second, np.where(independent, random_length, other_length)

    def _edit(self, rng, text, size, shortest, letter, active):
        """One random edit per row; an edit to a length out of range becomes a replacement."""
        num, width = text.shape
        kind = rng.integers(3, size=num)  # 0 inserts, 1 deletes, 2 replaces
        insert = active & (kind == 0) & (size < shortest + self.max_extra)
        delete = active & (kind == 1) & (size > shortest)
        index = (rng.random(num) * (size + insert)).astype(np.int64)  # of the edit
        column = np.arange(width)[None]
        after_deleted = (column >= index[:, None]) & delete[:, None]
        after_inserted = (column > index[:, None]) & insert[:, None]
        shift = after_deleted.astype(np.int64) - after_inserted
        edited = np.take_along_axis(text, np.minimum(column + shift, width - 1), axis=1)
        has_letter = active & ~delete
        edited[has_letter, index[has_letter]] = letter[has_letter, 0]
        return edited, size + insert - delete

    def chain_answer(
        self, rounds: Int[Host, "b t r"], num_rounds: Int[Host, " b"]
    ) -> Int[Host, " b"]:
        return last_number(rounds, num_rounds)

    def scratchpad(self, problem: Int[Array, "b n"], num_loops: int) -> Scratchpad:
        """The memory is the last row, aligned with s2.

        A right-aligned round and its `,` have the same columns as s2 and `<sep>`.

            problem   [ED] a   b   |   a   c   b  <sep>
            memory     .   .   .   0   2   4   6   ,       row 0, a constant
            round 1                    0   2   4   ,       predicted, then copied
            memory     .   .   .   2   0   2   4   ,       below `|`: column 0, a constant
            pointer        1                               to the letter of s1 of loop 1
        """
        num, width = problem.shape
        column = jnp.arange(width)[None, None]
        bar = jnp.argmax(problem == BAR, axis=1)[None, :, None]
        start = jnp.argmax(problem == ED, axis=1)[None, :, None]
        inside = (column >= bar) & (column < width - 1)
        border = FIRST_NUMBER + self.border_cost * jnp.maximum(column - bar, 0)
        first_row = jnp.where(inside, border, PAD)[0]
        first_row = first_row.at[:, -1].set(COMMA)
        loop = jnp.arange(1, num_loops + 1)[:, None, None]
        copy_from = jnp.where(column > bar, column, -1)
        reads = ((column == start + loop) & (column < bar)).astype(jnp.int32)
        return Scratchpad(
            initial=first_row,
            copy_from=jnp.broadcast_to(copy_from, (num_loops, num, width)),
            constants=jnp.where(
                column == bar, FIRST_NUMBER + self.border_cost * loop, -1
            ),
            pointers=jnp.stack([reads, jnp.zeros_like(reads)], axis=-1),
            shows_problem=True,
            has_differences=True,
        )


def distance_rows(
    first: Int[Host, "b n"], second: Int[Host, "b m"], border_cost: int = GAP
) -> Int[Host, "b n+1 m+1"]:
    """The edit-distance matrices of pairs of strings of up to n and m letters.

    Within a row, D[j] = min_k<=j (C[k] + GAP (j - k)) where C[k] is the best way to
    reach column k without a final insertion: a running minimum, so rows are vectorized.
    """
    num, height = first.shape
    slope = GAP * np.arange(second.shape[1] + 1)
    matrix = np.empty((num, height + 1, second.shape[1] + 1), np.int64)
    matrix[:, 0] = border_cost * np.arange(second.shape[1] + 1)
    for i in range(height):
        above = matrix[:, i]
        reach = above + GAP
        reach[:, 0] = border_cost * (i + 1)
        change = REPLACE * (second != first[:, i : i + 1])
        reach[:, 1:] = np.minimum(reach[:, 1:], above[:, :-1] + change)
        matrix[:, i + 1] = np.minimum.accumulate(reach - slope, axis=1) + slope
    return matrix
