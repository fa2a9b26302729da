"""Greedy generation with the decoder: one jitted loop over a batch of prompts.

Prompts have different lengths; every row starts right after its own prompt and stops at
its own `<eos>`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from relay_jax.arrays import Array, Bool, Float, Int, PyTree
from relay_jax.config import ModelConfig
from relay_jax.models.cache import Cache, make_cache, write_cache
from relay_jax.models.decoder import run_decoder
from relay_jax.tokens import PAD


class Generation(NamedTuple):
    """The carry of the generation loop."""

    tokens: Int[Array, "b n"]  # what was written, `<pad>` after `<eos>`
    count: Int[Array, ""]  # how many columns of it are filled
    next_token: Int[Array, " b"]  # chosen, not yet written
    probability: Float[Array, " b"]  # of that token
    confidence: Float[Array, " b"]  # the least probability of any token written
    done: Bool[Array, " b"]
    cache: Cache


@functools.partial(jax.jit, static_argnames=("model", "max_new_tokens", "eos_id"))
def generate(
    params: PyTree,
    prompts: Int[Array, "b p"],
    *,
    model: ModelConfig,
    max_new_tokens: int,
    eos_id: int,
) -> tuple[Int[Array, "b n"], Float[Array, " b"]]:
    """Continues prompts, which are padded with `<pad>` on their right.

    Returns:
      The new tokens, `<eos>` included, `[b, max_new_tokens]`; and for each row the
      probability of its least certain token.
    """
    batch_size, width = prompts.shape
    inside = prompts != PAD
    cache = make_cache(model, batch_size, width + max_new_tokens)
    logits, new = run_decoder(params, prompts, model=model)
    cache = write_cache(cache, new, inside)
    last = jnp.maximum(cache.length - 1, 0)[:, None, None]
    logits = jnp.take_along_axis(logits, last, axis=1)[:, 0]

    def choose(logits):
        probability = jnp.max(jax.nn.softmax(logits), axis=-1)
        return jnp.argmax(logits, axis=-1).astype(prompts.dtype), probability

    def is_open(state: Generation):
        return (state.count < max_new_tokens) & ~jnp.all(state.done)

    def extend(state: Generation) -> Generation:
        token = jnp.where(state.done, PAD, state.next_token)
        tokens = state.tokens.at[:, state.count].set(token)
        done = state.done | (token == eos_id)
        logits, new = run_decoder(
            params,
            token[:, None],
            model=model,
            mask=jnp.ones((batch_size, 1, 1), bool),
            cache=state.cache,
        )
        next_token, probability = choose(logits[:, 0])
        least = jnp.minimum(state.confidence, state.probability)
        return Generation(
            tokens,
            state.count + 1,
            next_token,
            probability,
            jnp.where(state.done, state.confidence, least),
            done,
            write_cache(state.cache, new, ~done[:, None]),
        )

    next_token, probability = choose(logits)
    start = Generation(
        tokens=jnp.full((batch_size, max_new_tokens), PAD, prompts.dtype),
        count=jnp.zeros((), jnp.int32),
        next_token=next_token,
        probability=probability,
        confidence=jnp.ones(batch_size),
        done=jnp.zeros(batch_size, bool),
        cache=cache,
    )
    final = jax.lax.while_loop(is_open, extend, start)
    return final.tokens, final.confidence
