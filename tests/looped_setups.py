"""Small looped models and batches that the tests of models and training share."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from relay_jax.config import ModelConfig, PositionConfig, TrainConfig
from relay_jax.data.alignment import looped_batch
from relay_jax.models.registry import run_looped
from relay_jax.tasks import TASKS
from relay_jax.training.step import init_params
from relay_jax.vocabulary import PAD

BIAS = PositionConfig(
    scheme="relative_bias", directional_heads=True, log_length_scaling=True
)
SMALL = ModelConfig(num_layers=2, dim=16, mlp_dim=32, num_heads=4, num_numbers=64)
CONFIGS = {
    "paper": SMALL,
    "bias": dataclasses.replace(SMALL, position=BIAS),
    "feedback": dataclasses.replace(SMALL, input_injection="feedback", position=BIAS),
    "soft": dataclasses.replace(SMALL, input_injection="feedback", feedback="soft"),
    "differences": dataclasses.replace(
        SMALL, input_injection="feedback", differences=True, number_code="digits"
    ),
}
TASK_OPTIONS = {
    "arithmetic": {"modulus": 5},
    "edit_distance": {},
    "lis": {"group": 3, "smallest": 10, "number_range": 20},
}


def make_batch(name, lengths, num_loops, width=0):
    """A task and an aligned batch of its problems, on the host."""
    task = TASKS[name](**TASK_OPTIONS[name])
    examples = task.sample(np.random.default_rng(0), np.array(lengths))
    return task, looped_batch(examples, task, num_loops, width)


def make_params(model, seed=0):
    """Parameters without zeros: zero biases would hide in which order they apply."""
    params = init_params(TrainConfig(model=model, seed=seed))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    noisy = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)]
    return jax.tree.unflatten(tree, noisy)


@functools.partial(jax.jit, static_argnums=(0, 1, 3, 5))
def run(model, task, batch, num_loops, params, columns=0, **rest):
    """`run_looped` on a batch, with the task's scratchpad where the model needs one."""
    scratchpad = None
    if model.uses_feedback:
        scratchpad = task.scratchpad(jnp.asarray(batch.problem), num_loops)
    return run_looped(
        params,
        batch.problem,
        batch.num_rounds,
        num_loops=num_loops,
        model=model,
        scratchpad=scratchpad,
        columns=columns,
        **rest,
    )


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def slow_iteration_loss(logits, rounds):
    """L_iter one example, round and position at a time; M_t is read off the rounds."""
    log_p, losses = log_softmax(logits), []
    for b in range(rounds.shape[1]):
        per_round = []
        for t in range(rounds.shape[0]):
            tokens = [int(i) for i in rounds[t, b] if i != PAD]
            if not tokens:
                continue
            width = rounds.shape[2]
            first = width - len(tokens)
            terms = [-log_p[t, b, first + i, token] for i, token in enumerate(tokens)]
            if first > 0:
                terms.append(-log_p[t, b, first - 1, PAD])  # the boundary pad
            per_round.append(np.mean(terms))
        losses.append(np.mean(per_round))
    return np.mean(losses)
