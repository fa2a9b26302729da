"""The tasks of RELAY (section 4.1). A new task is a file here and a line below."""

from collections.abc import Mapping
from typing import Any

from relay_jax import config_io
from relay_jax.base import Examples, Scratchpad
from relay_jax.tasks.arithmetic import Arithmetic
from relay_jax.tasks.edit_distance import EditDistance
from relay_jax.tasks.lis import LongestIncreasingSubsequence
from relay_jax.tasks.task import Task

TASKS = {
    "arithmetic": Arithmetic,
    "edit_distance": EditDistance,
    "lis": LongestIncreasingSubsequence,
}

__all__ = ["TASKS", "Examples", "Scratchpad", "Task", "make_task"]


def make_task(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """A task by its name. Raises ValueError at an unknown name or option."""
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; valid tasks: {', '.join(TASKS)}")
    return config_io.build(TASKS[name], options or {}, f"options of {name}")
