"""Text files of problems, one a line, as Feng et al. published them and as we print them.

    ( 7 - 6 ) / 5 = 9                              a problem and its answer
    ( 7 - 6 ) / 5 = 1 / 5 = 9                      with its chain
    a b | a c b <sep> 0 2 4 , 2 3 2 , <sep> 2      edit distance
    130 125 140 <sep> 1 1 2 <sep> 2                LIS

docs/problem_files.md has the whole grammar. Every problem is solved here, and what the
file has is compared with that: an answer or a chain that is wrong is an error, not a
measurement. A chain of arithmetic may do its operations in another order than the task's;
then only its answer and the number of operations in each round are checked.
"""

import contextlib
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np
from absl import logging
from etils import epath

from relay_jax.base import Bool, Examples, Host
from relay_jax.data.alignment import flatten, sizes
from relay_jax.data.sources import InMemorySource, concatenate, is_test
from relay_jax.tasks import Task
from relay_jax.tasks.task import stack_problems
from relay_jax.text_files import read_lines
from relay_jax.vocabulary import (
    ARI,
    DIVIDE,
    ED,
    EOS,
    EQUALS,
    FIRST_NUMBER,
    LIS,
    PLUS,
    SEP,
    TaskTokenizer,
)

BLOCK = 1024  # problems that are solved together


class ProblemFile(NamedTuple):
    """The problems of a file, with the answers and chains of the task that solved them."""

    examples: Examples
    has_chain: Bool[Host, " b"]  # whether the file has this chain, too
    has_other_chain: Bool[Host, " b"]  # whether it has one with another order instead


class Line(NamedTuple):
    """A line of a file as token ids."""

    number: int  # from 1
    problem: list[int]  # with task token and end mark
    solution: list[int]  # the rest, without <eos>: the answer, or a chain with it
    length: int


def read_problems(path: epath.PathLike, task: Task, num_numbers: int) -> ProblemFile:
    """Reads a file of problems of one task; empty lines are skipped.

    Args:
      num_numbers: of the model's vocabulary.

    Raises:
      ValueError: the file has no problems, or a line cannot be read or is wrong; the
        message has the file, the line, and why.
    """
    try:
        lines = read_lines(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read as a text: {error}") from error
    tokenizer = TaskTokenizer(num_numbers)
    rows = [row for row in enumerate(lines, 1) if row[1].strip()]
    if not rows:
        raise ValueError(f"{path} has no problems; write one a line")
    parts, kinds = [], []
    for start in range(0, len(rows), BLOCK):
        lines = []
        for number, row in rows[start : start + BLOCK]:
            with _located(path, number):
                lines.append(_parse(row, number, task, tokenizer))
        parts.append(_solve(path, task, lines))
        for line, ours in zip(lines, _solutions(parts[-1], task), strict=True):
            with _located(path, line.number):
                kinds.append(_compare(line, ours, task, tokenizer))
    return ProblemFile(
        concatenate(parts), np.array(kinds) == "same", np.array(kinds) == "other order"
    )


@contextlib.contextmanager
def _located(path: epath.PathLike, number: int) -> Iterator[None]:
    """Errors begin with the file and the line."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: {error}") from None


def open_problems(
    path: epath.PathLike,
    task: Task,
    lengths: tuple[int, int],
    seed: int,
    num_numbers: int,
) -> InMemorySource:
    """The training problems of a file, of some lengths, with the task's own chains.

    Those that are reserved for testing (`sources.is_test`) are left out.

    Raises:
      ValueError: see `read_problems`; or none is left.
    """
    examples = read_problems(path, task, num_numbers).examples
    inside = (examples.length >= lengths[0]) & (examples.length <= lengths[1])
    chosen = inside & ~is_test(examples.problem)
    if not np.any(chosen):
        raise ValueError(
            f"{path} has no training problems of lengths {lengths[0]}..{lengths[1]}: "
            f"{np.sum(inside)} of its {len(inside)} problems have such a length, and a "
            "tenth of all problems is reserved for testing"
        )
    logging.warning(
        "%s: %d of %d problems; %d have other lengths than %d..%d, %d are reserved for "
        "testing",
        *(path, chosen.sum(), len(chosen), (~inside).sum(), *lengths),
        (inside & ~chosen).sum(),
    )
    return InMemorySource(Examples(*(part[chosen] for part in examples)), seed)


def select_problems(
    problems: ProblemFile, count: int, lengths: Collection[int] | None = None
) -> ProblemFile:
    """The first `count` problems of each length, or of each of some lengths.

    Raises:
      ValueError: there is none.
    """
    length = problems.examples.length
    chosen = np.zeros(len(length), bool)
    for each in np.unique(length) if lengths is None else lengths:
        chosen[np.flatnonzero(length == each)[:count]] = True
    if not np.any(chosen):
        raise ValueError(
            "the file has no problems of these lengths, only of "
            f"{length.min()}..{length.max()}"
        )
    examples, *rest = problems
    examples = Examples(*(part[chosen] for part in examples))
    return ProblemFile(examples, *(part[chosen] for part in rest))


def _parse(text: str, number: int, task: Task, tokenizer: TaskTokenizer) -> Line:
    ids = tokenizer.encode(text)
    if ids[0] not in (ARI, ED, LIS):
        ids.insert(0, task.token)
    if ids[-1] == EOS:
        ids.pop()
    if task.end not in ids:
        raise ValueError(
            f"there is no {tokenizer.decode([task.end])} after the problem"
        )
    size = ids.index(task.end) + 1
    problem, solution = ids[:size], ids[size:]
    if not solution or solution[-1] < FIRST_NUMBER:
        raise ValueError("it does not end with a number, the answer")
    length = task.problem_length(np.array(problem))
    if size > task.problem_size(length):
        raise ValueError(
            f"the problem has {size} tokens, more than the {task.problem_size(length)} "
            "that it can need; leave out brackets that change nothing"
        )
    return Line(number, problem, solution, length)


def _solve(path: epath.PathLike, task: Task, lines: list[Line]) -> Examples:
    length = np.array([line.length for line in lines])
    width = task.problem_size(int(length.max()))
    problem = stack_problems([line.problem for line in lines], width)
    try:
        return task.solve(problem, length)
    except ValueError:
        if len(lines) == 1:
            with _located(path, lines[0].number):
                raise
        for line in lines:  # the first one that has no solution is the error
            _solve(path, task, [line])
        raise


def _solutions(examples: Examples, task: Task) -> Iterator[list[int]]:
    """What follows each problem in a decoder's text, without <eos>."""
    text, problem_sizes = flatten(examples, task)
    for row, start, end in zip(text, problem_sizes, sizes(text) - 1):
        yield row[start:end].tolist()


def _compare(line: Line, ours: list[int], task: Task, tokenizer: TaskTokenizer) -> str:
    """What the file has of the solution: "answer", "same" or "other order".

    Raises:
      ValueError: it is wrong.
    """
    if line.solution[-1] != ours[-1]:
        answers = map(tokenizer.decode, ([line.solution[-1]], [ours[-1]]))
        raise ValueError(
            "the answer is {}, expected {}: the problem is solved as {}".format(
                *answers, task
            )
        )
    forms = ours, _published(line, ours)
    if line.solution in forms:
        return "same"
    if len(line.solution) == 1:
        return "answer"
    if task.answer_in_chain and _does_one_operation_a_round(line):
        return "other order"
    wrong = max(_first_difference(line.solution, form) for form in forms)
    raise ValueError(
        f"the chain is wrong or incomplete from its token {wrong + 1} on "
        f"({tokenizer.decode(line.solution[wrong : wrong + 1]) or 'the end'!r}): the "
        f"problem is solved as {task}"
    )


def _published(line: Line, ours: list[int]) -> list[int]:
    """Our solution as it is published: LIS in one piece, then <sep> and the answer."""
    *chain, answer = ours
    if line.problem[0] == LIS:
        chain = [token for token in chain if token != SEP][: line.length]
    return ours if line.problem[0] == ARI else [*chain, SEP, answer]


def _does_one_operation_a_round(line: Line) -> bool:
    operators = [0]
    for token in line.solution:
        if token == EQUALS:
            operators.append(0)
        operators[-1] += PLUS <= token <= DIVIDE
    return operators == list(range(line.length - 1, -1, -1))


def _first_difference(one: list[int], other: list[int]) -> int:
    pairs = enumerate(zip(one, other))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
