"""The state of decoding: everything that the loop carries from step to step.

first_state      prompts that have been read
append_accepted  the state after a step: the text ends with the accepted branch and the
                 token that the model predicts after it
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from relay_jax.base import Array, Bool, Float, Int, Key, PyTree
from relay_jax.decoding.draft_tree import DraftTree
from relay_jax.decoding.verify import Accepted, TargetTokens
from relay_jax.models.sharding import constrain


class DecodeState(NamedTuple):
    """The carry of the decode loop."""

    tokens: Int[Array, "b m"]  # prompt, then the generated tokens, then zeros
    prompt_length: Int[Array, " b"]
    length: Int[Array, " b"]  # of the text; its last token is the next tree's root
    stop: Int[Array, " b"]  # the length at which a row ends
    done: Bool[Array, " b"]
    drafted: Bool[Array, "b m"]  # tokens that were drafted and accepted
    confidence: Float[Array, " b"]  # the lowest probability of a generated token
    steps: Int[Array, " b"]  # forward passes that generated tokens of the row
    nodes: Int[Array, " b"]  # the number of nodes drafted in these steps
    keys: Key[Array, " b"]  # of each request, for sampling
    cache: Any  # of the target model: all tokens of the text except the last
    drafter_state: Any  # see `Drafter`; () for most
    sizing: Any = ()  # `TreeSizing` if every step chooses its tree's size


class NewTokens(NamedTuple):
    """The tokens that a step appends to every text: the first `count` of s columns."""

    tokens: Int[Array, "b s"]
    probability: Float[Array, "b s"]  # under the target model
    drafted: Bool[Array, "b s"]  # all but the last one, which the model adds
    count: Int[Array, " b"]  # 0 in rows that are done
    ended: Bool[Array, " b"]  # whether the last of these tokens ends the text


class StepResult(NamedTuple):
    """What a forward pass over a draft tree changes."""

    new: NewTokens
    nodes: Int[Array, " b"]  # of the tree
    cache: Any
    drafter_state: Any

    def widen(self, size: int) -> "StepResult":
        """The same with room for `size` new tokens."""
        tokens, probability, drafted, *rest = self.new
        more = ((0, 0), (0, size - tokens.shape[1]))
        wide = (jnp.pad(part, more) for part in (tokens, probability, drafted))
        return self._replace(new=NewTokens(*wide, *rest))


def empty_result(state: DecodeState, size: int) -> StepResult:
    """The result of no step at all, with room for `size` new tokens."""
    none = jnp.zeros_like(state.length)
    wide = jnp.zeros((len(none), size), jnp.int32)
    is_never = jnp.zeros_like(state.done)
    new = NewTokens(wide, wide.astype(jnp.float32), wide.astype(bool), none, is_never)
    return StepResult(new, none, state.cache, state.drafter_state)


def first_state(tokens, length, stop, keys, cache, drafter_state) -> DecodeState:
    """The state after the prompts have been read."""
    batch_size = len(length)
    none = jnp.zeros(batch_size, jnp.int32)
    tokens, length, stop = (
        jnp.asarray(part, jnp.int32) for part in (tokens, length, stop)
    )
    return DecodeState(
        tokens=tokens,
        prompt_length=length,
        length=length,
        stop=stop,
        done=length >= stop,
        drafted=jnp.zeros(tokens.shape, bool),
        confidence=jnp.ones(batch_size),
        steps=none,
        nodes=none,
        keys=keys,
        cache=cache,
        drafter_state=drafter_state,
    )


def node_tokens(state: DecodeState, tree: DraftTree) -> Int[Array, "b q"]:
    """The tokens of a tree's nodes, the root first."""
    root = jnp.take_along_axis(state.tokens, state.length[:, None] - 1, axis=1)
    return jnp.concatenate([root, tree.tokens], axis=1)


def node_mask(state: DecodeState, tree: DraftTree) -> Bool[Array, "b q"]:
    """Which nodes exist, including the root; none in rows that are done."""
    valid = tree.valid_with_root
    return valid & ~state.done[:, None]


def accepted_tokens(
    state: DecodeState, target: TargetTokens, accepted: Accepted, eos_id: Any
) -> NewTokens:
    """The new tokens of a step: the accepted drafts, then the model's own token.

    They are cut after the first token that ends a text and at the row's `stop`.
    """
    path, count = accepted
    tokens = jnp.take_along_axis(target.token, path, axis=1)
    probability = jnp.take_along_axis(target.probability, path, axis=1)
    step = jnp.arange(path.shape[1])[None]
    is_drafted = step < count[:, None] - 1
    ends = jnp.isin(tokens, jnp.asarray(eos_id, jnp.int32)) & (step < count[:, None])
    ended = jnp.any(ends, axis=1)
    count = jnp.where(ended, jnp.argmax(ends, axis=1) + 1, count)
    room = state.stop - state.length
    ended &= count <= room
    count = jnp.where(state.done, 0, jnp.minimum(count, room))
    return NewTokens(tokens, probability, is_drafted, count, ended)


def append_accepted(state: DecodeState, result: StepResult) -> DecodeState:
    """The state after a step."""
    new = result.new
    size = state.tokens.shape[1]
    step = jnp.arange(new.tokens.shape[1])[None]
    is_new = step < new.count[:, None]
    row = jnp.arange(len(new.count))[:, None]
    # What is not new goes to distinct columns outside the text, where it is dropped.
    column = jnp.where(is_new, state.length[:, None] + step, size + step)

    def put(array, values):
        return array.at[row, column].set(values, mode="drop", unique_indices=True)

    length = state.length + new.count
    lowest = jnp.min(jnp.where(is_new, new.probability, 1.0), axis=1)
    return DecodeState(
        tokens=put(state.tokens, new.tokens),
        prompt_length=state.prompt_length,
        length=length,
        stop=state.stop,
        done=state.done | new.ended | (length >= state.stop),
        drafted=put(state.drafted, new.drafted),
        confidence=jnp.minimum(state.confidence, lowest),
        steps=state.steps + ~state.done,
        nodes=state.nodes + jnp.where(state.done, 0, result.nodes),
        keys=state.keys,
        cache=result.cache,
        drafter_state=result.drafter_state,
        sizing=state.sizing,
    )


def constrain_state(
    state: DecodeState,
    like: PyTree,
    constrain_cache: Callable[[Any, Any], Any] = lambda cache, like: cache,
) -> DecodeState:
    """The state; on a mesh, each process then sees all of it except the cache.

    Args:
      like: arrays on the mesh.
      constrain_cache: `TargetModel.constrain_cache`.
    """
    put = functools.partial(constrain, like=like)
    replicated = jax.tree.map(put, state._replace(cache=()))
    return replicated._replace(cache=constrain_cache(state.cache, like))
