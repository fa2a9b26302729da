"""Verification: what does the model say at every node, and which branch is that?

    tree     root - a - b - c          said    root: a    a: b    b: d    x: ...
                  \\ x                  kept    a b, and d, which the model says after b

Every node's token is compared with what the model says at the node's parent; a node is
kept if it and all nodes above it agree. So what is kept is what plain decoding would
have said, token for token.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from relay_jax.base import Array, Bool, Float, Int, Key
from relay_jax.config import SamplingConfig
from relay_jax.decoding.draft_tree import Tree

MASK_VALUE = -jnp.inf


class TargetTokens(NamedTuple):
    """What the model says after each node, and how probable that was to the model."""

    token: Int[Array, "b q"]
    probability: Float[Array, "b q"]


class Accepted(NamedTuple):
    """The kept branch: `count` nodes, from the root on."""

    path: Int[Array, "b s"]  # node numbers; s = depth of the tree + 1
    count: Int[Array, " b"]  # 1 .. s


def sample(
    logits: Float[Array, "b q v"],
    sampling: SamplingConfig,
    keys: Key[Array, " b"],
    position: Int[Array, " b"],
    depth: Int[Array, "b q"],
    deepest: int,
) -> TargetTokens:
    """The model's next token after every node.

    With a temperature, a token is the arg-max of logits plus Gumbel noise that depends
    on (the request's key, the token's place in the text) alone: however the text was
    drafted, the same place gets the same noise, and sampled decoding has one outcome.

    Args:
      keys: a request's own key.
      position: the place in the text of the token that follows the root.
      depth: how far below the root each node stands; at most `deepest`.
    """
    if sampling.temperature == 0.0:
        token = jnp.argmax(logits, axis=-1)
    else:
        noise = _noise(keys, position, deepest + 1, logits.shape[-1])
        noise = jnp.take_along_axis(noise, depth[..., None], axis=1)
        token = jnp.argmax(filter_logits(logits, sampling) + noise, axis=-1)
    said = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0]
    probability = jnp.exp(said - jax.nn.logsumexp(logits, axis=-1))
    return TargetTokens(token.astype(jnp.int32), probability)


def filter_logits(
    logits: Float[Array, "*b v"], sampling: SamplingConfig
) -> Float[Array, "*b v"]:
    """Logits divided by the temperature, minus infinity outside top-k, then top-p."""
    logits = logits / sampling.temperature
    if sampling.top_k:
        kept = _heaviest(logits, jnp.ones_like(logits), sampling.top_k)
        logits = jnp.where(kept, logits, MASK_VALUE)
    if sampling.top_p < 1.0:
        kept = _heaviest(logits, jax.nn.softmax(logits, axis=-1), sampling.top_p)
        logits = jnp.where(kept, logits, MASK_VALUE)
    return logits


def accept(tree: Tree, token: Int[Array, "b q"], deepest: int) -> Accepted:
    """The longest branch that the model itself would have said.

    Args:
      token: what the model says after each node, root first.
      deepest: the depth of the deepest node there can be.
    """
    above = jnp.take_along_axis(token, tree.parent, axis=1)
    holds = jnp.pad((tree.tokens == above) & tree.valid, ((0, 0), (1, 0)))
    holds = holds.at[:, 0].set(True)
    is_kept = jnp.all(holds[:, None] | ~tree.ancestors, axis=-1)
    depth = jnp.pad(tree.depth, ((0, 0), (1, 0)))
    last = jnp.argmax(jnp.where(is_kept, depth, -1), axis=1)
    on_path = jnp.take_along_axis(tree.ancestors, last[:, None, None], axis=1)[:, 0]
    level = jnp.arange(deepest + 1)[None, :, None]
    path = jnp.argmax(on_path[:, None] & (depth[:, None] == level), axis=-1)
    count = jnp.take_along_axis(depth, last[:, None], axis=1)[:, 0] + 1
    return Accepted(path.astype(jnp.int32), count)


def _noise(keys, position, num: int, vocab_size: int) -> Float[Array, "b s v"]:
    def one(key, place):
        return jax.random.gumbel(jax.random.fold_in(key, place), (vocab_size,))

    places = position[:, None] + jnp.arange(num)[None]
    return jax.vmap(jax.vmap(one, in_axes=(None, 0)))(keys, places)


def _heaviest(values, weights, target) -> Bool[Array, "*b v"]:
    """The fewest of the largest values whose weights reach the target; ties are kept.

    Their lower limit is found bit by bit, without sorting: floats keep their order when
    their bits are read as whole numbers (those below zero turned round).
    """
    bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32)
    bits = jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)

    def step(i, limit):
        tried = limit ^ jnp.left_shift(jnp.int32(1), 31 - i)  # the sign comes first
        mass = jnp.sum(jnp.where(bits >= tried, weights, 0.0), axis=-1, keepdims=True)
        return jnp.where(mass >= target, tried, limit)

    lowest = jnp.full((*values.shape[:-1], 1), -(2**31), jnp.int32)
    return bits >= jax.lax.fori_loop(0, 32, step, lowest)
