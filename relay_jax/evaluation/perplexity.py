"""A language model on held-out text: its loss, and how often it says the next token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from relay_jax.base import AnyArray, Array, Bool, Float, Int, PyTree
from relay_jax.config import ModelConfig
from relay_jax.data.text import Windows
from relay_jax.files import make_record
from relay_jax.models.decoder import run_decoder
from relay_jax.models.sharding import constrain


def make_text_records(
    params: PyTree,
    model: ModelConfig,
    windows: Windows,
    count: int,
    batch_size: int,
    common: dict,
) -> list[dict]:
    """Records of `count` windows: `token_loss` (nats) and `token_accuracy`."""
    batch = windows.spread(count)
    count = len(batch.tokens)
    total = np.zeros(2)
    for start in range(0, count, batch_size):
        rows = np.arange(start, start + batch_size)
        told = batch.trained[rows % count] & (rows < count)[:, None]
        score = _score(params, batch.tokens[rows % count], told, model=model)
        total += np.asarray(score)
    tokens = int(batch.trained.sum())
    loss, accuracy = total / tokens
    measured = common | {"length": windows.size, "count": tokens}
    return [
        make_record(**measured, metric="token_loss", value=float(loss)),
        make_record(**measured, metric="token_accuracy", value=float(accuracy)),
    ]


@functools.partial(jax.jit, static_argnames="model")
def _score(
    params: PyTree,
    tokens: Int[AnyArray, "b n"],
    told: Bool[AnyArray, "b n"],
    *,
    model: ModelConfig,
) -> Float[Array, "2"]:
    logits, _ = run_decoder(params, tokens[:, :-1], model=model)
    target, told = tokens[:, 1:], told[:, 1:]
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, target)
    right = jnp.argmax(logits, axis=-1) == target
    sums = [jnp.sum(x, where=told) for x in (entropy, right.astype(float))]
    return constrain(jnp.stack(sums), like=params)  # seen by every process
