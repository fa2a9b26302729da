"""The tasks of the RELAY paper. To add one: a file here, and a line below."""

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

__all__ = ["TASKS", "Examples", "Scratchpad", "Task"]
