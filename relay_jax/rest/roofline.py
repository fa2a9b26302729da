"""Roofline: the limits of a device, its memory bandwidth and its matrix throughput.

Decoding is bound by the bandwidth: a decode step at a small batch size does little
arithmetic. It reads every parameter once, and the cache, so its time is at least

    (bytes of parameters + bytes of cached keys and values) / bandwidth

and a step that verifies a tree reads no more. The bandwidth is that of one large array,
measured in the same run. Training is bound by the throughput: `evaluation/flops.py`.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relay_jax.base import Array, PyTree
from relay_jax.config import DraftConfig, ModelConfig
from relay_jax.decoding import decode
from relay_jax.jax_settings import make_key
from relay_jax.models.sharding import named_leaves
from relay_jax.rest.drafters import make_drafter

ROUNDS = 5  # measurements of each kind, of which the median is used


class StepTime(NamedTuple):
    """The time of one kind of step, in seconds."""

    seconds: float  # the median
    min: float
    max: float


def bandwidth(num_bytes: int = 2**32) -> float:
    """The device's memory bandwidth, in bytes per second.

    The better of reading one large array and of copying it, which counts twice.
    """
    array = jnp.ones((max(num_bytes // 4, 1),), jnp.float32)
    found = []
    for moved, call in ((1, jnp.max), (2, jnp.negative)):
        run = jax.jit(call)
        jax.block_until_ready(run(array))
        seconds = min(_time(lambda run=run: run(array)) for _ in range(2 * ROUNDS))
        found.append(moved * array.nbytes / seconds)
    return max(found)


def matrix_sizes() -> tuple[int, ...]:
    """Sizes of square matrices whose product takes this kind of device milliseconds."""
    return (512, 1024) if jax.default_backend() == "cpu" else (4096, 8192)


def matrix_rate(dtype: str = "float32") -> float:
    """Floating-point operations per second of a matrix product: the best of many."""
    run, found = jax.jit(jnp.matmul), []
    for size in matrix_sizes():
        matrix = jnp.ones((size, size), dtype)
        jax.block_until_ready(run(matrix, matrix))
        times = [_time(lambda x=matrix: run(x, x)) for _ in range(8 * ROUNDS)]
        found.append(2 * size**3 / min(times))
    return max(found)


def read_bytes(
    params: PyTree, model: ModelConfig, text_length: int, batch_size: int
) -> int:
    """Bytes that a plain step has to read.

    It reads all parameters, but only the batch's rows of the embedding table (unless
    the head is tied to it), and the cache of `text_length` tokens per row.
    """
    leaves = named_leaves(params)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves.values())
    if not model.tie_embeddings:
        table = leaves["words/words"]
        size -= (table.shape[0] - batch_size) * table.shape[1] * table.dtype.itemsize
    width = (
        jnp.dtype(model.dtype).itemsize
        * model.resolved_num_kv_heads
        * model.resolved_head_dim
    )
    return int(size + 2 * model.num_layers * batch_size * text_length * width)


def time_steps(
    params: PyTree,
    model: ModelConfig,
    draft: DraftConfig,
    index: Any,
    *,
    text_length: int,
    batch_size: int,
    num_steps: int,
    trace: str = "",
    seed: int = 0,
) -> StepTime:
    """Seconds per step of the real decode loop, after random tokens.

    Args:
      text_length: random tokens per row before the first step.
      num_steps: the number of steps of one measurement.
      trace: a directory for a profile of one more measurement.
    """
    rng = np.random.default_rng(seed)
    shape = (batch_size, text_length)
    prompts = rng.integers(model.vocab_size, size=shape).astype(np.int32)
    drafter = make_drafter(draft)
    state = decode.start(
        params,
        prompts,
        np.full(batch_size, text_length, np.int32),
        decode.request_keys(seed, batch_size),
        drafter,
        model=model,
        max_new_tokens=(ROUNDS + 1 + bool(trace)) * num_steps * (drafter.max_depth + 1),
    )

    def step(state):
        return decode.advance(
            params, state, drafter, index, model=model, num_steps=num_steps
        )

    state, seconds = jax.block_until_ready(step(state)), []
    for _ in range(ROUNDS):
        before = time.perf_counter()
        state = jax.block_until_ready(step(state))
        seconds.append((time.perf_counter() - before) / num_steps)
    if trace:
        with jax.profiler.trace(trace):
            jax.block_until_ready(step(state))
    return StepTime(float(np.median(seconds)), min(seconds), max(seconds))


def random_params(model: ModelConfig, seed: int = 0) -> PyTree:
    """Random parameters of a decoder, drawn on the device, for measuring times."""
    from relay_jax.models.decoder import Decoder

    shapes = jax.eval_shape(
        Decoder(model).init, make_key(0), jnp.ones((1, 1), jnp.int32)
    )["params"]
    leaves, structure = jax.tree.flatten(shapes)
    keys = jax.random.split(make_key(seed), len(leaves))

    @functools.partial(jax.jit, static_argnames=("shape", "dtype"))
    def draw(key: Array, shape, dtype):
        return (0.02 * jax.random.normal(key, shape, dtype)).astype(dtype)

    drawn = [draw(key, x.shape, x.dtype) for key, x in zip(keys, leaves)]
    return jax.tree.unflatten(structure, drawn)


def _time(call: Callable[[], Any]) -> float:
    before = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - before
