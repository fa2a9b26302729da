"""A looped model that solves the problems of its tasks.

    solver = relay_jax.load("experiments/checkpoints/arithmetic")
    solver.solve("(2+3)*4+1=")

The model runs as in evaluation: one round for each loop, and as many loops as a problem
of this length has rounds. The model alone computes the answer.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, overload

import numpy as np

from relay_jax.base import Examples, Host, Int, PyTree
from relay_jax.config import ModelConfig, TrainConfig
from relay_jax.data.buckets import run_tasks
from relay_jax.evaluation.predict import predict_looped
from relay_jax.tasks import Task
from relay_jax.tasks.task import stack_problems
from relay_jax.vocabulary import PAD, TaskTokenizer

BATCH_SIZE = 64  # problems of one task, solved together


class Solution(NamedTuple):
    """A problem as a looped model solves it."""

    rounds: list[str]  # the reasoning chain, one round for each loop
    answer: str
    confidence: float  # probability of the least certain predicted token


class LoopedSolver(NamedTuple):
    """A looped model with its tasks, as `relay_jax.load` returns it."""

    config: ModelConfig
    params: PyTree
    tasks: Mapping[str, tuple[Task, ...]]  # by name: as evaluated, then as trained
    name: str = ""

    @property
    def tokenizer(self) -> TaskTokenizer:
        """The closed vocabulary of the tasks."""
        return TaskTokenizer(self.config.num_numbers)

    @overload
    def solve(self, problems: str) -> Solution: ...

    @overload
    def solve(self, problems: Sequence[str]) -> list[Solution]: ...

    def solve(self, problems: Any) -> Solution | list[Solution]:
        """Solves one problem, or several at once.

        Args:
          problems: a problem as text, or a list of them: `"(2+3)*4="`, `"[ED] ab|acb"`,
            `"[LIS] 150 130 170"`. The task token may be left out where the model has one
            task, the end mark always.

        Returns:
          A `Solution` for one problem, a list of them for a list.

        Raises:
          TypeError: `problems` is neither.
          ValueError: a problem is malformed, too long for the model's vocabulary, or of
            a task that the model was not trained on.
        """
        if isinstance(problems, str):
            return self.solve([problems])[0]
        if not isinstance(problems, Sequence) or not all(
            isinstance(problem, str) for problem in problems
        ):
            raise TypeError(
                f"problems must be a text or a list of texts, got {problems!r}"
            )
        parsed = [self._parse(problem) for problem in problems]
        solutions: dict[int, Solution] = {}
        for task in dict.fromkeys(task for task, _ in parsed):
            rows = [row for row, (other, _) in enumerate(parsed) if other == task]
            found = _solve(self, task, [parsed[row][1] for row in rows])
            solutions |= dict(zip(rows, found))
        return [solutions[row] for row in range(len(problems))]

    def _parse(self, problem: str) -> tuple[Task, Int[Host, " p"]]:
        """A problem's task and tokens, with the task token and the end mark."""
        ids = self.tokenizer.encode(problem)
        by_token = {tasks[0].token: tasks for tasks in self.tasks.values()}
        if not ids or ids[0] not in by_token:
            if len(by_token) > 1 or not ids:
                names = " or ".join(map(self.tokenizer.decode, zip(by_token)))
                raise ValueError(
                    f"the problem {problem!r} does not begin with its task: {names}"
                )
            ids = [*by_token, *ids]
        tasks = by_token[ids[0]]
        if ids[-1] != tasks[0].end:
            ids.append(tasks[0].end)
        error = None
        for task in tasks:
            try:
                length = task.problem_length(np.array(ids))
                _check_solution(task, ids, length)
            except ValueError as one:
                error = error or one
                continue
            self._check_numbers(task, length)
            return task, np.array(ids, np.int64)
        raise ValueError(f"{problem!r}: {error}") from None

    def _check_numbers(self, task: Task, length: int) -> None:
        if task.max_number(length) >= self.config.num_numbers:
            raise ValueError(
                f"a problem of length {length} may need numbers up to "
                f"{task.max_number(length)}, but the model's vocabulary ends at "
                f"{self.config.num_numbers - 1}; give a shorter problem"
            )


def _check_solution(task: Task, ids: list[int], length: int) -> None:
    """Raises ValueError if a problem has no solution, as a division by 0."""
    problem = stack_problems([ids], task.problem_size(length))
    task.solve(problem, np.array([length]))


def make_solver(config: TrainConfig, params: PyTree) -> LoopedSolver:
    """The solver of a looped model's run.

    Raises:
      ValueError: it was trained on no task.
    """
    tasks = run_tasks(config)
    if not tasks:
        raise ValueError(
            f"the run {config.name!r} names no task in data.buckets or "
            "evaluation.options, so there are no problems to solve"
        )
    return LoopedSolver(config.model, params, tasks, config.name)


def _solve(
    solver: LoopedSolver, task: Task, problems: list[Int[Host, "_"]]
) -> list[Solution]:
    length = np.array([task.problem_length(ids) for ids in problems])
    num_rounds = np.array([task.num_rounds(int(n)) for n in length])
    num, longest = len(problems), max(map(len, problems))
    problem = stack_problems(problems)
    # Their content is not read; their size gives the loop's width, as in evaluation.
    size = max(longest - 1, task.round_size(1))
    size = min(task.round_size(int(length.max())), size)
    rounds = np.full((num, int(num_rounds.max()), size), task.token, problem.dtype)
    rounds[np.arange(rounds.shape[1]) >= num_rounds[:, None]] = PAD
    examples = Examples(problem, rounds, num_rounds, np.full(num, PAD), length)
    batch_size = min(num, BATCH_SIZE)
    answer, chains, confidence = predict_looped(
        solver.params, solver.config, task, examples, batch_size
    )
    read = solver.tokenizer.decode
    return [
        Solution(
            rounds=[
                read(chains[row, t][chains[row, t] != PAD])
                for t in range(num_rounds[row])
            ],
            answer=read([answer[row]]),
            confidence=float(confidence[row]),
        )
        for row in range(num)
    ]
