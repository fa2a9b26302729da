"""Evaluates a run: accuracy on test problems of its tasks, loss on its held-out text.

Problems are sampled, or those of a file.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from etils import epath

from relay_jax.base import PyTree
from relay_jax.config import TrainConfig
from relay_jax.data.buckets import open_held_out, run_tasks
from relay_jax.data.problem_files import ProblemFile, read_problems
from relay_jax.evaluation import accuracy
from relay_jax.evaluation.perplexity import make_text_records
from relay_jax.tasks import Task, make_task
from relay_jax.tasks.edit_distance import PUBLISHED_EXTRA, EditDistance


def evaluate_run(
    config: TrainConfig,
    params: PyTree,
    workdir: epath.PathLike,
    common: Mapping[str, Any],
    *,
    count: int,
    seed: int,
    final: bool,
    lengths: dict[str, list[int]] | None = None,
    details: bool = False,
) -> list[dict]:
    """Records of a run's evaluation.

    Args:
      workdir: the run directory, relative to which the config names held-out text.
      common: `run`, `model` and `seed`, which are added to every record.
      count: test problems per length, or windows of text.
      seed: of the test problems.
      final: whether to use other test problems than during training, and to add records
        of each round and token of the longest problems.
      lengths: test lengths by task; by default those of the config, and its text.
      details: whether to add these records for all lengths.
    """
    settings, records = config.evaluation, []
    common = dict(common)
    if lengths is None:
        lengths = {n: settings.steps_to(n, b) for n, b in settings.lengths.items()}
        if settings.text:
            windows = open_held_out(config, workdir)
            args = (params, config.model, windows, count, settings.batch_size)
            records += make_text_records(*args, common | {"task": "text"})
    for name, task_lengths in lengths.items():
        task = make_task(name, settings.options.get(name, {}))
        problems = accuracy.test_problems(task, task_lengths, count, seed, final=final)
        score = accuracy.score(
            params, config.model, task, problems, settings.batch_size
        )
        detailed = task_lengths if details else task_lengths[-1:] if final else []
        records += accuracy.make_records(score, common | {"task": name}, detailed)
    return records


def read_problems_for(
    config: TrainConfig, path: epath.PathLike, name: str = ""
) -> tuple[Task, ProblemFile]:
    """The problems of a file and the run's task to which they belong.

    The task has the options with which the run was evaluated, or else trained.

    Args:
      name: of the task; by default that of a run with one task.

    Raises:
      ValueError: the run has not this task, or several; or see `read_problems`.
    """
    tasks = run_tasks(config)
    names = [name] if name else list(tasks)
    if len(names) != 1 or names[0] not in tasks:
        raise ValueError(
            f"{config.name} has the tasks {', '.join(tasks) or 'of a text model only'}; "
            f"name one of them for {path}, got {name!r}"
        )
    error = None
    for task in dict.fromkeys(map(_with_room, tasks[names[0]])):
        try:
            return task, read_problems(path, task, config.model.num_numbers)
        except ValueError as one:
            error = error or one
    raise error or ValueError(f"{config.name} has no task")


def _with_room(task: Task) -> Task:
    """The task with room for all pairs of strings of the published generator."""
    if isinstance(task, EditDistance) and task.max_extra < PUBLISHED_EXTRA:
        return dataclasses.replace(task, max_extra=PUBLISHED_EXTRA)
    return task


def evaluate_problems(
    config: TrainConfig,
    params: PyTree,
    task: Task,
    problems: ProblemFile,
    common: Mapping[str, Any],
) -> list[dict]:
    """Records of the problems of a file: answers of all, chains where it has them.

    Args:
      common: fields of every record, `run`, `model` and `seed` among them.
    """
    scored = accuracy.score(
        params, config.model, task, problems.examples, config.evaluation.batch_size
    )
    has_chain = problems.has_chain
    with_chain = accuracy.Score(*(field[has_chain] for field in scored))
    common = dict(common) | {"task": task.name}
    lengths = set(with_chain.length.tolist())
    return [
        record
        for part, detailed in ((scored, ()), (with_chain, lengths))
        for record in accuracy.make_records(part, common, detailed)
        if (record["metric"] == "answer_accuracy") == (part is scored)
    ]
