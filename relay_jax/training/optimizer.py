"""AdamW with clipping and the paper's linear schedule (Tables 1 and 2)."""

import optax

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
    """Gradients clipped by their global norm, then AdamW."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            make_schedule(config, num_steps),
            b2=config.b2,
            weight_decay=config.weight_decay,
        ),
    )
