"""Autotuning: the times by which every step chooses the size of its draft tree.

    drafter = autotune.make_drafter(draft, params, model)
    state = decode.start(params, ..., drafter, model=model, max_new_tokens=...)
    times = autotune.measure_times(params, state, drafter, index, draft=draft, model=model)
    state = autotune.set_times(state, times)
    state = decode.advance(params, state, drafter, index, model=model)

The choice itself is part of the decode loop: `decoding/tree_size.py`. It needs the times
of the loop's steps, which are measured here, once for each model, device, drafter and
batch size, and kept in a file (`step_times.py`).
"""

import functools
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from etils import epath

from relay_jax.base import PyTree
from relay_jax.config import DraftConfig, ModelConfig, SamplingConfig
from relay_jax.decoding import decode, tree_size
from relay_jax.decoding.decode import DecodeState
from relay_jax.decoding.drafter import Drafter
from relay_jax.decoding.tree_size import StepSeconds
from relay_jax.models.decoder import STACK
from relay_jax.models.sharding import mesh_shape
from relay_jax.rest import drafters, step_times
from relay_jax.rest.step_times import describe_setting, step_seconds

DRAFTING = -1  # as a size: the time of the draft alone
MAX_SECONDS = 5.0  # of measuring, without compiling
TURNS = 5  # measurements of each size
MAX_STEPS = 16  # of one measurement
MIN_SECONDS = 1e-6  # shorter times are clock errors


def make_drafter(draft: DraftConfig, params: PyTree, model: ModelConfig) -> Drafter:
    """The drafter of a config whose `num_draft` may be `AUTOTUNE`.

    Of a deep model, whose layers are compiled one by one, it has fewer sizes.
    """
    num_layers = 1 if STACK in params else model.num_layers
    return drafters.make_drafter(draft, num_layers)


def measure_times(
    params: PyTree,
    state: DecodeState,
    drafter: Drafter,
    index: Any = None,
    *,
    draft: DraftConfig,
    model: ModelConfig,
    sampling: SamplingConfig = decode.GREEDY,
    eos_id: decode.EndIds = decode.NO_EOS,
    cache_file: epath.PathLike | None = None,
) -> StepSeconds | None:
    """The times of steps from the cache, or measured on copies of a state and cached.

    Measuring compiles the decode loop. There are none for a drafter of one size.

    Args:
      state: that of `decode.start` with this drafter.
      drafter: `make_drafter`'s.
      cache_file: the cache of step times; by default `step_times.default_file()`.
    """
    if not drafter.sizes:
        return None
    # All arguments as for decoding, so that what is compiled here is used there.
    settings = {"model": model, "sampling": sampling, "eos_id": eos_id}
    measure = functools.partial(_time_steps, params, state, drafter, index, settings)
    setting = describe_setting(
        model, draft, sampling, index, len(state.length), mesh=mesh_shape(params)
    )
    file = cache_file or step_times.default_file()
    sizes = [DRAFTING, *drafter.sizes]
    seconds = step_seconds(lambda _: measure(), sizes, setting, file)
    plain = seconds[0]
    drafted = [plain + seconds[DRAFTING], *(seconds[c] for c in drafter.sizes[1:])]
    return StepSeconds(jnp.array(drafted, jnp.float32), jnp.array(plain, jnp.float32))


def set_times(state: DecodeState, times: StepSeconds | None) -> DecodeState:
    """The state with measured times, if there are any."""
    if times is None:
        return state
    copies = StepSeconds(*map(jnp.array, times))  # the decode loop donates its state
    return state._replace(sizing=tree_size.with_times(state.sizing, copies))


def draft_sizes(
    state: DecodeState, draft: DraftConfig, drafter: Drafter
) -> dict[int, int]:
    """Steps of the batch by the size of their draft trees, in nodes."""
    if not drafter.sizes:
        return {draft.num_draft: int(np.max(np.asarray(state.steps)))}
    counts = np.asarray(state.sizing.counts).tolist()
    return {size: count for size, count in zip(drafter.sizes, counts) if count}


def mean_size(sizes: Mapping[int, int]) -> float:
    """The mean size of a step's draft tree, in nodes, of `draft_sizes`."""
    total = sum(size * count for size, count in sizes.items())
    return round(total / max(sum(sizes.values()), 1), 1)


def _time_steps(params, state, drafter, index, settings) -> dict[int, float]:
    """Seconds per step of the decode loop itself, by size; on copies of `state`.

    The time of a call without any step is subtracted: compared with a small model's
    steps it is not small. Sizes take turns, so that a slow moment of the machine affects
    all of them.
    """
    no_end = jax.tree.map(lambda _: decode.NO_EOS, settings["eos_id"])

    def call(number: int, num_steps: int, pause: int) -> tuple[float, int]:
        copy = jax.tree.map(jnp.copy, state)
        forced = copy.sizing._replace(forced=jnp.int32(number), pause=jnp.int32(pause))
        copy = jax.block_until_ready(copy._replace(sizing=forced))
        before = time.perf_counter()
        after = decode.advance(
            *(params, copy, drafter, index),
            num_steps=num_steps,
            **settings | {"eos_id": no_end},
        )
        jax.block_until_ready(after)
        spent = time.perf_counter() - before
        return spent, int((after.steps - state.steps).max())

    def time_step(number: int, num_steps: int, pause: int = 0) -> float:
        without, _ = call(number, 0, pause)
        spent, steps = call(number, num_steps, pause)
        return max(spent - without, MIN_SECONDS) / max(steps, 1)

    call(0, 0, 0)  # compiles
    begin = time.perf_counter()
    logging.warning(
        "measuring how long decode steps take, in at most 10 seconds: once for this "
        "model, device and batch size"
    )
    kinds = [(0, MAX_STEPS), *((number, 0) for number in range(len(drafter.sizes)))]
    first = sum(time_step(number, 1, pause) for number, pause in kinds)
    num_steps = int(np.clip(MAX_SECONDS / (first * TURNS), 1, MAX_STEPS))
    turns = []
    for turn in range(1, TURNS + 1):
        turns.append([time_step(number, num_steps, pause) for number, pause in kinds])
        spent = time.perf_counter() - begin
        if spent * (turn + 1) / turn > MAX_SECONDS:
            break
    plain, without_node, *drafted = np.median(turns, axis=0).tolist()
    seconds = dict(zip(drafter.sizes[1:], drafted))
    return {DRAFTING: max(without_node - plain, MIN_SECONDS), 0: plain} | seconds
