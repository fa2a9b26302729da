"""Autotuning measures which size of the draft tree is fastest; 0 if drafts do not pay.

    seconds(C)   time of one step of the decode loop with C nodes: measured once, cached
    M(C)         tokens per step with C nodes: counted on text just generated
    C            where M(C) / seconds(C) is highest; 0, plain decoding, if nothing gains

M is counted for all sizes at once. At every position of the text the largest tree is
drafted; its first C nodes are the tree of C nodes, so the node of each true next token
determines which sizes would have accepted it; a walk over the positions counts steps.

`autotune` decodes the first `PROBE` steps plainly and chooses the size on their text.
"""

import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from relay_jax.base import Array, Host, Int, PyTree
from relay_jax.config import DraftConfig, ModelConfig, SamplingConfig
from relay_jax.decoding import decode
from relay_jax.decoding.decode import DecodeState
from relay_jax.decoding.drafter import (
    DecodedText,
    Drafter,
    ignore_logits,
    without_drafts,
)
from relay_jax.models.sharding import mesh_shape
from relay_jax.rest import drafters
from relay_jax.rest.drafters import PLAIN, make_drafter
from relay_jax.rest.step_times import default_file, describe_setting, step_seconds

AUTOTUNE = -1  # as `num_draft`: the size is to be chosen
SIZES = (0, 4, 8, 16, 32, 64)
MIN_GAIN = 1.05  # the minimum speed-up; below it, decoding stays plain
PROBE = 64  # plain steps, on whose text the size is chosen
PROBED_ROWS = 4
TIMED_STEPS = 16
TIMED_TURNS = 5
MIN_SECONDS = 1e-6  # shorter times are clock errors
MISSING_NODE = 2**30  # the number of a node that does not exist


class TunedDraft(NamedTuple):
    """A chosen tree size, and the measurements behind it."""

    draft: DraftConfig
    seconds: dict[int, float]  # per step, by tree size
    rates: dict[int, float]  # M, tokens per step, by tree size

    @property
    def gain(self) -> float:
        """The expected speed-up of the best size, chosen or not."""
        return max(_speed_ups(self.seconds, self.rates).values())

    def pays(self, new_tokens: int, steps: int) -> bool:
        """Whether the steps taken were faster than plain decoding would have been."""
        cost = self.seconds[self.draft.num_draft] / self.seconds[0]
        return new_tokens >= steps * cost

    def summary(self) -> str:
        """One line for the user."""
        if self.draft.num_draft:
            return (
                f"{self.draft.num_draft} draft nodes per step: {self.gain:.2f} times as "
                "fast expected"
            )
        return (
            f"decoding without drafts, which would not pay here (at best {self.gain:.2f} "
            "times as fast); force a tree with --num_draft"
        )


def autotune(
    params: PyTree,
    state: DecodeState,
    index: Any,
    *,
    model: ModelConfig,
    draft: DraftConfig,
    sampling: SamplingConfig = decode.GREEDY,
    eos_id: decode.EndIds = decode.NO_EOS,
    cache_file: epath.PathLike | None = None,
) -> tuple[DecodeState, TunedDraft]:
    """Decodes `PROBE` plain steps, and chooses the tree size for the steps after them.

    Donates `state`. Only the time depends on the choice, the generated text does not.

    Args:
      state: that of `decode.start` with the drafter of any tree size.
      draft: its `num_draft` is ignored.
      cache_file: the cache of step times; by default `step_times.default_file()`.
    """
    sizes = [c for c in SIZES if c <= drafters.max_nodes(draft)]
    if draft.drafter == "none":
        sizes = [0]
    # All arguments as `decode` passes them, so that what is compiled here is reused.
    settings = {"model": model, "sampling": sampling, "eos_id": eos_id}
    measure = functools.partial(_time_steps, params, state, index, draft, settings)
    setting = describe_setting(
        *(model, draft, sampling, index),
        *state.tokens.shape,
        mesh=mesh_shape(params),
    )
    seconds = step_seconds(measure, sizes, setting, cache_file or default_file())

    plain = without_drafts(make_drafter(resize(draft, max(sizes))))

    def probe(state, num_steps):
        return decode.advance(params, state, plain, num_steps=num_steps, **settings)

    # A drafter that observes the model does so in the first half; the second tests it.
    observed = 0 if plain.observe is ignore_logits else PROBE // 2
    state = probe(state, observed)
    prompt_lengths = np.asarray(state.length)
    drafter_state = jax.tree.map(jnp.copy, state.drafter_state)
    state = probe(state, PROBE - observed)
    rates = tokens_per_step(state, prompt_lengths, index, draft, sizes, drafter_state)
    return state, choose(draft, seconds, rates)


def choose(
    draft: DraftConfig, seconds: dict[int, float], rates: dict[int, float]
) -> TunedDraft:
    """The size with the most tokens per second; 0 unless its speed-up is `MIN_GAIN`."""
    speed_ups = _speed_ups(seconds, rates)
    best = max(speed_ups, key=speed_ups.__getitem__)
    chosen = best if speed_ups[best] >= MIN_GAIN else 0
    return TunedDraft(resize(draft, chosen), seconds, rates)


def resize(draft: DraftConfig, num_draft: int) -> DraftConfig:
    """The same drafter with another tree size; 0 is plain decoding."""
    if num_draft == 0:
        return PLAIN
    return dataclasses.replace(draft, num_draft=num_draft)


def start_drafter(draft: DraftConfig) -> Drafter:
    """The drafter with which prompts are read, even before the tree size is chosen."""
    is_open = draft.num_draft == AUTOTUNE
    return make_drafter(resize(draft, 1) if is_open else draft)


def tokens_per_step(
    state: DecodeState,
    prompt_lengths: Int[Host, " b"],
    index: Any,
    draft: DraftConfig,
    sizes: list[int],
    drafter_state: Any = (),
) -> dict[int, float]:
    """M by tree size, as if the text of `state` after its prompts had been drafted.

    It is exactly what decoding would count, over `PROBE` tokens of each of the rows
    with the longest texts.

    Args:
      sizes: tree sizes, in nodes.
      drafter_state: the state before the text; the drafter observes nothing within it.
    """
    if max(sizes) == 0:
        return {0: 1.0}
    length = np.asarray(state.length)
    rows = np.argsort(-(length - prompt_lengths), kind="stable")[:PROBED_ROWS]
    position = prompt_lengths[rows][:, None] + np.arange(PROBE)[None]
    is_text = position < length[rows][:, None]
    nodes = _true_nodes(
        state.tokens[np.repeat(rows, PROBE)],
        jnp.asarray(np.minimum(position, length[rows][:, None]).ravel()),
        jnp.asarray(np.repeat(length[rows], PROBE)),
        *(index, drafter_state),
        drafter=make_drafter(resize(draft, max(sizes))),
    )
    nodes = np.asarray(nodes).reshape(*position.shape, -1)
    rates = {}
    for size in sizes:
        accepted = np.sum(nodes <= size, axis=-1)
        steps = sum(_count_steps(n[mask]) for n, mask in zip(accepted, is_text))
        rates[size] = float(is_text.sum() / max(steps, 1))
    return rates


def _speed_ups(seconds: dict[int, float], rates: dict[int, float]) -> dict[int, float]:
    return {size: rates[size] * seconds[0] / seconds[size] for size in seconds}


def _time_steps(params, state, index, draft, settings, sizes) -> dict[int, float]:
    """Seconds per step of the decode loop itself, by tree size; on copies of `state`.

    The time of a call without any step is subtracted: compared with a small model's
    steps it is not small, and would make drafting look cheap. Sizes take turns, so that
    a slow moment of the machine affects all of them.
    """
    no_end = jax.tree.map(lambda _: decode.NO_EOS, settings["eos_id"])

    def call(size, num_steps):
        copy = jax.block_until_ready(jax.tree.map(jnp.copy, state))
        before = time.perf_counter()
        after = decode.advance(
            *(params, copy, make_drafter(resize(draft, size))),
            index if size else None,
            num_steps=num_steps,
            **settings | {"eos_id": no_end},
        )
        jax.block_until_ready(after)
        spent = time.perf_counter() - before
        return spent, int((after.steps - state.steps).max())

    def time_step(size):
        without, _ = call(size, 0)
        spent, steps = call(size, TIMED_STEPS)
        return max(spent - without, MIN_SECONDS) / max(steps, 1)

    for size in sizes:
        call(size, 0)  # compiles
    turns = [[time_step(size) for size in sizes] for _ in range(TIMED_TURNS)]
    return dict(zip(sizes, np.median(turns, axis=0).tolist()))


@functools.partial(jax.jit, static_argnames="drafter")
def _true_nodes(
    tokens: Int[Array, "b m"],
    length: Int[Array, " b"],
    stop: Int[Array, " b"],
    index: Any,
    drafter_state: Any,
    *,
    drafter: Drafter,
) -> Int[Array, "b s"]:
    """The nodes of the tokens after `length`, depth by depth.

    From the first token on that was not drafted, they are `MISSING_NODE`.
    """
    tree = drafter.draft(index, drafter_state, DecodedText(tokens, length))
    position = length[:, None] + jnp.arange(drafter.max_depth)[None]
    within = jnp.minimum(position, tokens.shape[1] - 1)
    truth = jnp.take_along_axis(tokens, within, axis=1)
    truth = jnp.where(position < stop[:, None], truth, -1)

    def descend(node, token):
        fits = (tree.parent == node[:, None]) & (tree.tokens == token[:, None])
        fits &= tree.valid
        child = jnp.where(fits.any(axis=1), jnp.argmax(fits, axis=1) + 1, MISSING_NODE)
        return child, child

    root = jnp.zeros(len(length), jnp.int32)
    return jax.lax.scan(descend, root, truth.T)[1].T


def _count_steps(accepted: Int[Host, " n"]) -> int:
    """Steps to the end of a text, if `accepted[i]` drafts are accepted at position i."""
    position = steps = 0
    while position < len(accepted):
        position += int(accepted[position]) + 1
        steps += 1
    return steps
