"""How large a draft tree pays: measured, not guessed; none where drafting does not pay.

    seconds(C)   of one step of the real loop with C nodes: measured once, kept in a file
    M(C)         tokens a step with C nodes: counted on text that the model has just said
    C            where M(C) / seconds(C) is highest; 0, plain decoding, if nothing gains

M is counted for all sizes at once. At every place of the text the largest tree is made;
its first C nodes are the tree of C nodes, so the node that holds each true next token
tells which sizes would have kept it, and a walk over the places gives the steps taken.

`fit` spends the first `PROBE` steps of a decode on plain text, and chooses by that.
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
from relay_jax.models.sharding import mesh_shape
from relay_jax.rest import drafters
from relay_jax.rest.drafters import Text
from relay_jax.rest.step_times import default_file, describe_setting, step_seconds
from relay_jax.rest.token_recycling import AdjacencyTable

AUTOTUNE = -1  # as `num_draft`: choose
SIZES = (0, 4, 8, 16, 32, 64)
MARGIN = 1.05  # drafting must gain this much, or decoding stays plain
PROBE = 64  # plain steps whose text the choice is made by
PROBED_ROWS = 4
TIMED_STEPS = 16
TIMED_TURNS = 5
SHORTEST = 1e-6  # seconds: less is a fault of the clock
MISSING_NODE = 2**30  # the number of a node that is not there


class TunedDraft(NamedTuple):
    """A choice, and what it was made by."""

    draft: DraftConfig
    seconds: dict[int, float]  # of a step, by tree size
    rates: dict[int, float]  # M, by tree size

    @property
    def gain(self) -> float:
        """The speed-up to be expected of the best size, chosen or not."""
        return max(_speed_ups(self.seconds, self.rates).values())

    def pays(self, new_tokens: int, steps: int) -> bool:
        """Whether the drafts that were made are faster than plain decoding."""
        cost = self.seconds[self.draft.num_draft] / self.seconds[0]
        return new_tokens >= steps * cost

    def tell(self) -> str:
        """One line for the user."""
        if self.draft.num_draft:
            return (
                f"{self.draft.num_draft} draft nodes a step: {self.gain:.2f} expected"
            )
        return (
            f"decoding plainly: drafts would not pay here (at best {self.gain:.2f} times "
            "as fast); force a tree with --num_draft"
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
    """Decodes `PROBE` plain steps, and chooses the tree for what follows.

    Donates `state`. The result does not depend on the choice, only the time does.

    Args:
      draft: its `num_draft` is ignored.
      cache_file: where measured step times are kept; by default `default_file()`.
    """
    sizes = [c for c in SIZES if c <= drafters.max_nodes(draft)]
    if draft.drafter == "none":
        sizes = [0]
    # Told in full, as `decode` does: what is compiled here is what decodes later.
    settings = {"model": model, "sampling": sampling, "eos_id": eos_id}
    measure = functools.partial(_time_steps, params, state, index, draft, settings)
    setting = describe_setting(
        *(model, draft, sampling, index),
        *state.tokens.shape,
        mesh=mesh_shape(params),
    )
    seconds = step_seconds(measure, sizes, setting, cache_file or default_file())

    def probe(state, num_steps):
        return decode.advance(
            params, state, None, draft=decode.PLAIN, num_steps=num_steps, **settings
        )

    # What the model told of words is learnt in the first half, and tried in the second.
    learnt = PROBE // 2 if state.followers is not None else 0
    state = probe(state, learnt)
    first, known = np.asarray(state.length), jax.tree.map(jnp.copy, state.followers)
    state = probe(state, PROBE - learnt)
    rates = tokens_per_step(state, first, index, draft, sizes, known)
    return state, choose(draft, seconds, rates)


def choose(
    draft: DraftConfig, seconds: dict[int, float], rates: dict[int, float]
) -> TunedDraft:
    """The size with the most tokens a second; 0 unless it gains `MARGIN`."""
    speed_ups = _speed_ups(seconds, rates)
    best = max(speed_ups, key=speed_ups.__getitem__)
    chosen = best if speed_ups[best] >= MARGIN else 0
    return TunedDraft(resize(draft, chosen), seconds, rates)


def resize(draft: DraftConfig, num_draft: int) -> DraftConfig:
    """The same drafter with another tree size; 0 is plain decoding."""
    if num_draft == 0:
        return decode.PLAIN
    return dataclasses.replace(draft, num_draft=num_draft)


def tokens_per_step(
    state: DecodeState,
    first: Int[Host, " b"],
    index: Any,
    draft: DraftConfig,
    sizes: list[int],
    known: AdjacencyTable | None = None,
) -> dict[int, float]:
    """M by tree size, had the text of `state` from `first` on been drafted.

    Exactly what decoding takes; of the first rows that have text, `PROBE` tokens each.

    Args:
      known: what the model had told of words before the text, where the drafter looks
        at that; what it tells of them in the text is left out.
    """
    if max(sizes) == 0:
        return {0: 1.0}
    length = np.asarray(state.length)
    rows = np.argsort(-(length - first), kind="stable")[:PROBED_ROWS]
    place = first[rows][:, None] + np.arange(PROBE)[None]
    is_told = place < length[rows][:, None]
    largest = resize(draft, max(sizes))
    nodes = _true_nodes(
        state.tokens[np.repeat(rows, PROBE)],
        jnp.asarray(np.minimum(place, length[rows][:, None]).ravel()),
        jnp.asarray(np.repeat(length[rows], PROBE)),
        *(index, known),
        draft=largest,
    )
    nodes = np.asarray(nodes).reshape(*place.shape, -1)
    rates = {}
    for size in sizes:
        kept = np.sum(nodes <= size, axis=-1)
        taken = sum(_steps(k[told]) for k, told in zip(kept, is_told))
        rates[size] = float(is_told.sum() / max(taken, 1))
    return rates


def _speed_ups(seconds: dict[int, float], rates: dict[int, float]) -> dict[int, float]:
    return {size: rates[size] * seconds[0] / seconds[size] for size in seconds}


def _time_steps(params, state, index, draft, settings, sizes) -> dict[int, float]:
    """Seconds of a step of the very loop that decodes, by tree size; on copies of `state`.

    The time of a call that takes no step is taken off: beside a small model's steps it is
    not small, and it would make drafting look cheap. Sizes take turns, so that a slow
    moment of the machine hits all alike.
    """

    no_end = jax.tree.map(lambda _: decode.NO_EOS, settings["eos_id"])

    def call(size, num_steps):
        copy = jax.block_until_ready(jax.tree.map(jnp.copy, state))
        before = time.perf_counter()
        after = decode.advance(
            *(params, copy, index if size else None),
            draft=resize(draft, size),
            num_steps=num_steps,
            **settings | {"eos_id": no_end},
        )
        jax.block_until_ready(after)
        spent = time.perf_counter() - before
        return spent, int((after.steps - state.steps).max())

    def time_step(size):
        without, _ = call(size, 0)
        spent, steps = call(size, TIMED_STEPS)
        return max(spent - without, SHORTEST) / max(steps, 1)

    for size in sizes:
        call(size, 0)  # compiles
    turns = [[time_step(size) for size in sizes] for _ in range(TIMED_TURNS)]
    return dict(zip(sizes, np.median(turns, axis=0).tolist()))


@functools.partial(jax.jit, static_argnames="draft")
def _true_nodes(
    tokens: Int[Array, "b m"],
    length: Int[Array, " b"],
    stop: Int[Array, " b"],
    index: Any = None,
    known: AdjacencyTable | None = None,
    *,
    draft: DraftConfig,
) -> Int[Array, "b s"]:
    """The nodes that hold the tokens after `length`; `MISSING_NODE` from the first miss on."""
    tree = drafters.draft(Text(tokens, length, known), index, draft)
    place = length[:, None] + jnp.arange(draft.depth)[None]
    truth = jnp.take_along_axis(tokens, jnp.minimum(place, tokens.shape[1] - 1), axis=1)
    truth = jnp.where(place < stop[:, None], truth, -1)

    def descend(node, token):
        fits = (tree.parent == node[:, None]) & (tree.tokens == token[:, None])
        fits &= tree.valid
        child = jnp.where(fits.any(axis=1), jnp.argmax(fits, axis=1) + 1, MISSING_NODE)
        return child, child

    root = jnp.zeros(len(length), jnp.int32)
    return jax.lax.scan(descend, root, truth.T)[1].T


def _steps(kept: Int[Host, " n"]) -> int:
    """Steps to the end of a text of whose next tokens `kept[i]` hold at place i."""
    place = steps = 0
    while place < len(kept):
        place += int(kept[place]) + 1
        steps += 1
    return steps
