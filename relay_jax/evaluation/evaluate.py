"""Evaluates a run: accuracy on test problems of its tasks, loss on its held-out text."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from relay_jax.base import PyTree
from relay_jax.config import TrainConfig
from relay_jax.data.buckets import open_held_out
from relay_jax.evaluation import accuracy
from relay_jax.evaluation.perplexity import make_text_records
from relay_jax.tasks import make_task


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
