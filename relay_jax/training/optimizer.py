"""AdamW (Tables 1 and 2) or Muon, with clipping and the paper's linear schedule."""

import jax
import optax
import optax.contrib

from relay_jax.arrays import PyTree
from relay_jax.config import OptimizerConfig


def make_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Linear warm-up, an optional constant part, then linearly to zero."""
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
    """Gradients clipped by their global norm, then AdamW or Muon."""
    schedule = make_schedule(config, num_steps)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        OPTIMIZERS[config.kind](schedule, config),
    )


def _adamw(schedule, config):
    return optax.adamw(schedule, b2=config.b2, weight_decay=config.weight_decay)


def _muon(schedule, config):
    """Muon (Jordan et al. 2024) for the matrices inside the layers, AdamW for the rest;
    updates have the size of AdamW's, so learning rates carry over (Liu et al. 2025)."""
    return optax.contrib.muon(
        schedule,
        weight_decay=config.weight_decay,
        adam_b2=config.b2,
        adam_weight_decay=config.weight_decay,
        muon_weight_dimension_numbers=_matrices,
        consistent_rms=0.2,
    )


def _matrices(params: PyTree) -> PyTree:
    """Which axes of each layer's kernel are its input and its output; None elsewhere."""

    def numbers(path, leaf):
        names = [entry.key for entry in path]
        if not (names[0].startswith("layer") and names[-1] == "kernel"):
            return None
        first = 1 if names[0] == "layers" else 0  # the decoder's are stacked by layer
        outputs = tuple(range(first + 1, leaf.ndim))
        return optax.contrib.MuonDimensionNumbers(first, outputs)

    return jax.tree_util.tree_map_with_path(numbers, params)


OPTIMIZERS = {"adamw": _adamw, "muon": _muon}
