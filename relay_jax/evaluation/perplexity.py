"""A language model on held-out text: its loss, and the accuracy of the next token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from relay_jax.base import AnyArray, Array, Bool, Float, Int, PyTree
from relay_jax.config import ModelConfig
from relay_jax.data.text import Windows
from relay_jax.files import make_record
from relay_jax.jax_settings import standard_settings
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
    """Records of `token_loss` (nats per token) and `token_accuracy`.

    Args:
      count: number of windows, evenly spaced over the text.
    """
    batch = windows.evenly_spaced(count)
    count = len(batch.tokens)
    total = np.zeros(2)
    for start in range(0, count, batch_size):
        rows = np.arange(start, start + batch_size)
        counted = batch.trained[rows % count] & (rows < count)[:, None]
        sums = _loss_and_hits(params, batch.tokens[rows % count], counted, model=model)
        total += np.asarray(sums)
    num_tokens = int(batch.trained.sum())
    loss, accuracy = total / num_tokens
    common = common | {"length": windows.size, "count": num_tokens}
    return [
        make_record(**common, metric="token_loss", value=float(loss)),
        make_record(**common, metric="token_accuracy", value=float(accuracy)),
    ]


@functools.partial(jax.jit, static_argnames="model")
@standard_settings()
def _loss_and_hits(
    params: PyTree,
    tokens: Int[AnyArray, "b n"],
    counted: Bool[AnyArray, "b n"],
    *,
    model: ModelConfig,
) -> Float[Array, "2"]:
    """Sums over the counted tokens: of their losses, and of correct predictions."""
    logits, _ = run_decoder(params, tokens[:, :-1], model=model)
    targets, counted = tokens[:, 1:], counted[:, 1:]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    is_correct = jnp.argmax(logits, axis=-1) == targets
    sums = [jnp.sum(x, where=counted) for x in (loss, is_correct.astype(float))]
    return constrain(jnp.stack(sums), like=params)  # available to every process
