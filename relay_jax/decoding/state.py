"""The state of decoding: what is told to a batch of texts, step by step.

first_state    prompts that have been read
append_accepted         the state after a step: the branch that the model itself would have said
               is part of the text; its keys and values are in the cache
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from relay_jax.base import Array, Bool, Float, Int, Key, PyTree
from relay_jax.decoding.draft_tree import Tree
from relay_jax.decoding.verify import TargetTokens, accept
from relay_jax.models.kv_cache import Cache, write_cache
from relay_jax.models.layers import KeyValues
from relay_jax.models.sharding import constrain
from relay_jax.rest import token_recycling
from relay_jax.rest.token_recycling import AdjacencyTable


class DecodeState(NamedTuple):
    """The carry of the loop."""

    tokens: Int[Array, "b m"]  # prompt, then what was written; 0 after it
    length: Int[Array, " b"]  # of the text; its last token is the next tree's root
    stop: Int[Array, " b"]  # the length at which a row ends
    done: Bool[Array, " b"]
    drafted: Bool[Array, "b m"]  # tokens that were drafted and kept
    confidence: Float[Array, " b"]  # the least probability of a token written
    steps: Int[Array, " b"]  # forward passes that wrote something to the row
    nodes: Int[Array, " b"]  # nodes drafted in them, in all
    keys: Key[Array, " b"]  # of each request, for sampling
    cache: Cache | None  # holds the text but for its last token
    followers: (
        AdjacencyTable | None
    )  # what the model said of each word; for some drafters


class Verification(NamedTuple):
    """What the model says of a tree."""

    choice: TargetTokens
    key_values: KeyValues | None
    followers: AdjacencyTable | None  # of every node, where a table learns them


def first_state(tokens, length, stop, keys, cache, known=None) -> DecodeState:
    batch_size = len(length)
    none = jnp.zeros(batch_size, jnp.int32)
    return DecodeState(
        tokens=tokens.astype(jnp.int32),
        length=length.astype(jnp.int32),
        stop=stop.astype(jnp.int32),
        done=length >= stop,
        drafted=jnp.zeros(tokens.shape, bool),
        confidence=jnp.ones(batch_size),
        steps=none,
        nodes=none,
        keys=keys,
        cache=cache,
        followers=known,
    )


def nodes(state: DecodeState, tree: Tree) -> Int[Array, "b q"]:
    """The tokens of a tree, its root's first."""
    root = jnp.take_along_axis(state.tokens, state.length[:, None] - 1, axis=1)
    return jnp.concatenate([root, tree.tokens], axis=1)


def append_accepted(
    state, tree, verdict: Verification, deepest: int, eos_id
) -> DecodeState:
    """Appends the accepted branch, and the token that the model says after it."""
    choice, new, told = verdict
    path, count = accept(tree, choice.token, deepest)
    known = state.followers
    if told is not None:
        counts = jnp.pad(tree.valid, ((0, 0), (1, 0)), constant_values=True)
        counts &= ~state.done[:, None]
        known = token_recycling.update(known, nodes(state, tree), told, counts)
    # What follows each kept node: the next kept node's token, at last the model's own.
    said = jnp.take_along_axis(choice.token, path, axis=1)
    probability = jnp.take_along_axis(choice.probability, path, axis=1)
    place = jnp.arange(deepest + 1)[None]
    own = count[:, None] - 1  # the last token is the model's own
    ends = jnp.isin(said, jnp.asarray(eos_id)) & (place < count[:, None])
    first_end = jnp.argmax(ends, axis=1)
    ended = jnp.any(ends, axis=1)
    count = jnp.where(ended, first_end + 1, count)
    ended &= count <= state.stop - state.length
    count = jnp.minimum(count, state.stop - state.length)
    count = jnp.where(state.done, 0, count)

    is_new = place < count[:, None]
    row = jnp.arange(len(count))[:, None]
    size = state.tokens.shape[1]
    slot = jnp.where(is_new, state.length[:, None] + place, size + place)

    def put(array, values):
        return array.at[row, slot].set(values, mode="drop", unique_indices=True)

    cache = state.cache
    if new is not None:
        rows = path[None, :, :, None, None]
        kept = jax.tree.map(lambda x: jnp.take_along_axis(x, rows, axis=2), new)
        cache = write_cache(cache, kept, is_new)
    least = jnp.min(jnp.where(is_new, probability, 1.0), axis=1)
    length = state.length + count
    return DecodeState(
        tokens=put(state.tokens, said),
        length=length,
        stop=state.stop,
        done=state.done | ended | (length >= state.stop),
        drafted=put(state.drafted, place < own),
        confidence=jnp.minimum(state.confidence, least),
        steps=state.steps + ~state.done,
        nodes=state.nodes + jnp.where(state.done, 0, tree.valid.sum(axis=1)),
        keys=state.keys,
        cache=cache,
        followers=known,
    )


def lay_out(state: DecodeState, params: PyTree) -> DecodeState:
    """On a mesh the cache is spread by heads, and all else is seen by every process."""
    put = functools.partial(constrain, like=params)
    told = jax.tree.map(put, state._replace(cache=None))
    if state.cache is None:
        return told
    held = [put(part, "heads", None) for part in state.cache.key_values]
    return told._replace(cache=Cache(KeyValues(*held), put(state.cache.length)))
