"""A run's accuracy on test problems of its tasks, and on its held-out text."""

from typing import Any

from etils import epath

from relay_jax.base import PyTree
from relay_jax.config import TrainConfig
from relay_jax.data import loader
from relay_jax.evaluation import accuracy
from relay_jax.evaluation.perplexity import make_text_records


def evaluate_run(
    config: TrainConfig,
    params: PyTree,
    workdir: epath.PathLike,
    about: dict[str, Any],
    *,
    count: int,
    seed: int,
    final: bool,
    lengths: dict[str, list[int]] | None = None,
    details: bool = False,
) -> list[dict]:
    """Records with `about` in each.

    Args:
      about: `run`, `model` and `seed` of the records.
      count: problems a length, or windows of text.
      seed: of the test problems.
      final: whether these are other problems than those met while training; of the
        longest ones, the records tell also each round and each place of it.
      lengths: of each task; by default the config's, and the held-out text.
      details: tell this of all lengths.
    """
    settings, lines = config.evaluation, []
    if lengths is None:
        lengths = {n: settings.steps_to(n, b) for n, b in settings.lengths.items()}
        if settings.text:
            windows = loader.open_held_out(config, workdir)
            work = (params, config.model, windows, count, settings.batch_size)
            lines += make_text_records(*work, about | {"task": "text"})
    for name, chosen in lengths.items():
        task = loader.make_task(name, settings.options.get(name, {}))
        problems = accuracy.test_problems(task, chosen, count, seed, final=final)
        scored = accuracy.score(
            params, config.model, task, problems, settings.batch_size
        )
        detailed = chosen if details else chosen[-1:] if final else []
        common = about | {"task": name}
        lines += accuracy.make_records(scored, common, detailed)
    return lines
