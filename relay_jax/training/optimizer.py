"""The optimizer: AdamW with the paper's linear schedule (RELAY, Tables 1 and 2).

Not in the paper: Muon, and an average of the parameters over the last steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from relay_jax.base import Array, Int, PyTree
from relay_jax.config import OptimizerConfig


def make_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """The learning rate: linear warm-up, an optional constant part, linear decay to 0."""
    warmup = max(round(config.warmup_share * num_steps), 1)
    constant = round(config.constant_share * num_steps)
    decay = max(num_steps - warmup - constant, 1)
    return optax.join_schedules(
        [
            optax.linear_schedule(0.0, config.learning_rate, warmup),
            optax.constant_schedule(config.learning_rate),
            optax.linear_schedule(config.learning_rate, 0.0, decay),
        ],
        [warmup, warmup + constant],
    )


def make_optimizer(
    config: OptimizerConfig, num_steps: int
) -> optax.GradientTransformation:
    """Clipping by the global norm, then AdamW or Muon.

    With `average_share`, the state also holds an average; see `trained_params`.
    """
    schedule = make_schedule(config, num_steps)
    parts = [
        optax.clip_by_global_norm(config.clip_norm),
        OPTIMIZERS[config.kind](schedule, config),
    ]
    if config.average_share:
        parts.append(average_params(config.average_share))
    return optax.chain(*parts)


class AverageState(NamedTuple):
    """The average of the parameters after `count` steps."""

    count: Int[Array, ""]
    average: PyTree


def average_params(share: float) -> optax.GradientTransformation:
    """Averages the parameters over about the last `share` of the steps so far.

    This is the power-function average of Karras et al. 2024, section 3.1; updates pass
    unchanged. Averaged parameters extrapolate better in length than any single iterate.
    """

    def init(params):
        copy = jax.tree.map(jnp.array, params)  # the originals are donated
        return AverageState(jnp.zeros((), jnp.int32), copy)

    def update(updates, state, params=None):
        count = state.count + 1
        rate = jnp.minimum(1.0, 1.0 / (share * count))
        new = jax.tree.map(jnp.add, params, updates)
        average = optax.incremental_update(new, state.average, rate)
        return updates, AverageState(count, average)

    return optax.GradientTransformation(init, update)


def trained_params(params: PyTree, opt_state: PyTree) -> PyTree:
    """The result of training: the averaged parameters, if any, or else the last."""
    last = opt_state[-1] if isinstance(opt_state, tuple) and opt_state else None
    return last.average if isinstance(last, AverageState) else params


def _adamw(schedule, config):
    return optax.adamw(schedule, b2=config.b2, weight_decay=config.weight_decay)


def _muon(schedule, config):
    """Muon (Jordan et al. 2024) for the matrices inside the layers, AdamW for the rest.

    Updates are scaled to the size of AdamW's, so learning rates carry over (Liu et al.
    2025).
    """
    return optax.contrib.muon(
        schedule,
        weight_decay=config.weight_decay,
        adam_b2=config.b2,
        adam_weight_decay=config.weight_decay,
        muon_weight_dimension_numbers=_matrices,
        consistent_rms=0.2,
    )


def _matrices(params: PyTree) -> PyTree:
    """The input and output axes of each layer's kernel; None for other parameters."""

    def numbers(path, leaf):
        names = [entry.key for entry in path]
        if not (names[0].startswith("layer") and names[-1] == "kernel"):
            return None
        first = 1 if names[0] == "layers" else 0  # the decoder's are stacked by layer
        outputs = tuple(range(first + 1, leaf.ndim))
        return optax.contrib.MuonDimensionNumbers(first, outputs)

    return jax.tree_util.tree_map_with_path(numbers, params)


OPTIMIZERS = {"adamw": _adamw, "muon": _muon}
