"""Verification: the model's token after every node, and the branch that agrees with it.

    tree    root - a - b - c        predicted    root: a    a: b    b: d    x: ..
                 \\ x                accepted     a b, and d, the model's token after b

Each node's token is compared with the model's token at the node's parent; a node is
accepted if it and all of its ancestors agree. So the accepted tokens are exactly those
that plain decoding would have generated (REST, section 3).
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from relay_jax.base import Array, Bool, Float, Int, Key
from relay_jax.config import SamplingConfig
from relay_jax.decoding.draft_tree import DraftTree

MIN_MASS = 1e-12  # of top-p


class TargetTokens(NamedTuple):
    """The model's token after each node, and its probability under the model."""

    token: Int[Array, "b q"]
    probability: Float[Array, "b q"]


class Accepted(NamedTuple):
    """The accepted branch: `count` nodes, from the root on."""

    path: Int[Array, "b s"]  # node numbers; s = depth of the tree + 1
    count: Int[Array, " b"]  # 1 .. s


def sample(
    logits: Float[Array, "b q v"],
    sampling: SamplingConfig,
    keys: Key[Array, " b"],
    position: Int[Array, " b"],
    depth: Int[Array, "b q"],
    max_depth: int,
) -> TargetTokens:
    """The model's next token after every node.

    With a temperature, a token is the arg-max of logits plus Gumbel noise that depends
    only on the request's key and the token's position in the text: the noise at a
    position is the same whatever was drafted, so sampled decoding has one outcome. As
    in REST (section 3.3), it is a sample from the model's own distribution.

    Args:
      logits: the model's, as `logits_rules` change them; the probability is theirs too.
      keys: one for each request.
      position: the position in the text of the token that follows the root.
      depth: of each node below the root; at most `max_depth`.
    """
    if sampling.is_greedy:
        token = jnp.argmax(logits, axis=-1)
    else:
        noise = gumbel_noise(keys, position, max_depth + 1, logits.shape[-1])
        noise = jnp.take_along_axis(noise, depth[..., None], axis=1)
        token = jnp.argmax(filter_logits(logits, sampling) + noise, axis=-1)
    logit = jnp.take_along_axis(logits, token[..., None], axis=-1)[..., 0]
    probability = jnp.exp(logit - jax.nn.logsumexp(logits, axis=-1))
    return TargetTokens(token.astype(jnp.int32), probability)


def gumbel_noise(
    keys: Key[Array, " b"], position: Int[Array, " b"], num: int, vocab_size: int
) -> Float[Array, "b s v"]:
    """Gumbel noise for `num` positions of each text, from `position` on."""

    def draw(key, position):
        key = jax.random.fold_in(key, position)
        return jax.random.gumbel(key, (vocab_size,), jnp.float32, mode="low")

    positions = position[:, None] + jnp.arange(num)[None]
    return jax.vmap(jax.vmap(draw, in_axes=(None, 0)))(keys, positions)


def filter_logits(
    logits: Float[Array, "*b v"], sampling: SamplingConfig
) -> Float[Array, "*b v"]:
    """Logits divided by the temperature; minus infinity outside top-k, top-p and min-p.

    They are applied in this order.
    """
    logits = logits / sampling.temperature
    if sampling.top_k:
        allowed = _heaviest(logits, jnp.ones_like(logits), sampling.top_k)
        logits = jnp.where(allowed, logits, -jnp.inf)
    if sampling.top_p < 1.0:
        # The likeliest token has at least 1/v of the mass, so a lower bound changes
        # nothing; without one, a tiny top-p would round to 0 and allow no token.
        mass = max(sampling.top_p, MIN_MASS)
        allowed = _heaviest(logits, jax.nn.softmax(logits, axis=-1), mass)
        logits = jnp.where(allowed, logits, -jnp.inf)
    if sampling.min_p:
        lowest = jnp.max(logits, axis=-1, keepdims=True) + math.log(sampling.min_p)
        logits = jnp.where(logits >= lowest, logits, -jnp.inf)
    return logits


def accept(tree: DraftTree, token: Int[Array, "b q"], max_depth: int) -> Accepted:
    """The longest branch that the model itself would have generated.

    Args:
      token: the model's token after each node, root first.
      max_depth: the maximum depth of a node.
    """
    above = jnp.take_along_axis(token, tree.parent, axis=1)
    agrees = jnp.pad((tree.tokens == above) & tree.valid, ((0, 0), (1, 0)))
    agrees = agrees.at[:, 0].set(True)
    is_accepted = jnp.all(agrees[:, None] | ~tree.ancestors, axis=-1)
    depth = tree.depth_with_root
    last = jnp.argmax(jnp.where(is_accepted, depth, -1), axis=1)
    on_path = jnp.take_along_axis(tree.ancestors, last[:, None, None], axis=1)[:, 0]
    level = jnp.arange(max_depth + 1)[None, :, None]
    path = jnp.argmax(on_path[:, None] & (depth[:, None] == level), axis=-1)
    count = jnp.take_along_axis(depth, last[:, None], axis=1)[:, 0] + 1
    return Accepted(path.astype(jnp.int32), count)


def _heaviest(values, weights, target) -> Bool[Array, "*b v"]:
    """Marks the fewest largest values whose weights sum to the target, and all ties.

    The lowest of them is found bit by bit, without sorting: floats keep their order when
    their bits are read as integers (for negative ones, with the other bits flipped).
    """
    bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.int32)
    bits = jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)

    def step(i, limit):
        tried = limit ^ jnp.left_shift(jnp.int32(1), 31 - i)  # the sign comes first
        mass = jnp.sum(jnp.where(bits >= tried, weights, 0.0), axis=-1, keepdims=True)
        return jnp.where(mass >= target, tried, limit)

    lowest = jnp.full((*values.shape[:-1], 1), -(2**31), jnp.int32)
    return bits >= jax.lax.fori_loop(0, 32, step, lowest)
