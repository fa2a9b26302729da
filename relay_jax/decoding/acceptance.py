"""Acceptance: how likely the nodes of a draft tree are, updated while decoding.

    log odds = bias[kind] + coefficients . features     if the node's parent is accepted

The kind of a node is the source of its heaviest sequence, and how long that matched; its
features are its share of its parent's weight and its depth. A node is accepted with the
product of these probabilities along its path.

It is logistic regression, one step of gradient ascent for each decode step: every node
whose parent turned out to be right is an example, verified or not. Forgetting pulls the
weights back to the prior, which `experiments.replay --fit` measures on held-out text.
"""

import functools
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relay_jax.base import Array, Bool, Float, Int
from relay_jax.decoding.draft_tree import NUM_KINDS, DraftTree, Evidence

SOURCES = ("unknown", "datastore", "text", "table", "looped")
NUM_BUCKETS = NUM_KINDS // 8  # kinds of each source
# The bucket of a match of -1 (there is none), 0, 1, .. 16 tokens.
_BUCKETS = np.array([0, 0, 1, 2, 3, 4, 4, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7])
_DEPTHS = (2, 3, 5)  # a feature for each: whether a node is at least so deep
FEATURES = (
    "one",
    "log_odds_of_share",
    "log_share",
    *(f"depth_{depth}" for depth in _DEPTHS),
)
PRIOR = pathlib.Path(__file__).with_name("acceptance.json")
RATE = 0.02  # of the gradient steps
FORGETTING = 0.001  # the part of what was learnt that each step forgets


class AcceptanceModel(NamedTuple):
    """The weights of the regression."""

    bias: Float[Array, " k"]  # by kind
    coefficients: Float[Array, " f"]


def match_kind(source: str, length: Int[Array, "b r"]) -> Int[Array, "b r"]:
    """The kinds of sequences that continue matches of some lengths, -1 to 16 tokens."""
    return SOURCES.index(source) * NUM_BUCKETS + jnp.asarray(_BUCKETS)[length + 1]


def chance_kind(source: str, chance: Float[Array, "b r"]) -> Int[Array, "b r"]:
    """The kinds of sequences that come with a probability of their own."""
    bucket = (chance * NUM_BUCKETS).astype(jnp.int32)
    return SOURCES.index(source) * NUM_BUCKETS + jnp.clip(bucket, 0, NUM_BUCKETS - 1)


def prior() -> AcceptanceModel:
    """The weights that were measured on held-out text (acceptance.json)."""
    return AcceptanceModel(*map(jnp.array, _read_prior()))


def path_probability(model: AcceptanceModel, tree: DraftTree) -> Float[Array, "b c"]:
    """The probability that each node is accepted, with all nodes above it."""
    log_chance = jax.nn.log_sigmoid(_log_odds(model, tree))
    above = tree.ancestors[:, 1:, 1:]
    log_path = jnp.sum(jnp.where(above, log_chance[:, None], 0.0), axis=-1)
    return jnp.where(tree.valid, jnp.exp(log_path), 0.0)


def update(
    model: AcceptanceModel,
    tree: DraftTree,
    following: Int[Array, "b s"],
    count: Int[Array, " b"],
) -> AcceptanceModel:
    """The model after it has been seen which tokens follow a text.

    It takes a step along the gradient of the log-likelihood, and back to the prior.

    Args:
      following: the tokens after the tree's root, `count` of them in each row.
    """
    is_example, is_accepted = examples(tree, following, count)
    error = is_accepted - jax.nn.sigmoid(_log_odds(model, tree))
    error = jnp.where(is_example, error, 0.0)
    is_kind = _evidence(tree).kind[..., None] == jnp.arange(NUM_KINDS)[None, None]
    gradient = AcceptanceModel(
        jnp.sum(jnp.where(is_kind, error[..., None], 0.0), axis=(0, 1)),
        jnp.einsum("bc,bcf->f", error, features(tree)),
    )
    forgetting = jnp.where(jnp.any(is_example), FORGETTING, 0.0)

    def step(weight, slope, start):
        return weight + RATE * slope - forgetting * (weight - start)

    return jax.tree.map(step, model, gradient, prior())


def examples(
    tree: DraftTree, following: Int[Array, "b s"], count: Int[Array, " b"]
) -> tuple[Bool[Array, "b c"], Bool[Array, "b c"]]:
    """Which nodes are examples, as their parents are right, and which of them are right.

    Args:
      following: the tokens after the tree's root, `count` of them in each row.
    """
    within = tree.valid & (tree.depth <= count[:, None])
    position = jnp.minimum(tree.depth, following.shape[1]) - 1
    truth = jnp.take_along_axis(following, position, axis=1)
    is_right = jnp.pad(
        within & (tree.tokens == truth), ((0, 0), (1, 0)), constant_values=True
    )
    is_true_path = jnp.all(is_right[:, None] | ~tree.ancestors, axis=-1)
    is_example = within & jnp.take_along_axis(is_true_path, tree.parent, axis=1)
    return is_example, is_true_path[:, 1:]


def features(tree: DraftTree) -> Float[Array, "b c f"]:
    """The features of every node, in the order of `FEATURES`."""
    weight = _evidence(tree).weight.astype(jnp.float32)
    above = jnp.take_along_axis(weight, tree.parent, axis=1)
    weight = weight[:, 1:]
    # With half a unit on both sides: a node of little weight is never certain.
    odds = jnp.log((weight + 0.5) / (jnp.maximum(above - weight, 0.0) + 0.5))
    share = jnp.log((weight + 0.5) / (above + 0.5))
    depths = [(tree.depth >= depth).astype(jnp.float32) for depth in _DEPTHS]
    return jnp.stack([jnp.ones_like(share), odds, share, *depths], axis=-1)


def _evidence(tree: DraftTree) -> Evidence:
    if tree.evidence is None:
        raise ValueError(
            "this drafter does not tell what its trees rest on, so that their size cannot "
            "be chosen; give num_draft, or draft weighted sequences"
        )
    return tree.evidence


def _log_odds(model: AcceptanceModel, tree: DraftTree) -> Float[Array, "b c"]:
    return features(tree) @ model.coefficients + model.bias[_evidence(tree).kind]


@functools.cache
def _read_prior() -> tuple[Any, Any]:
    values = json.loads(PRIOR.read_text())
    bias = np.zeros(NUM_KINDS, np.float32)
    for source, row in values["bias"].items():
        first = SOURCES.index(source) * NUM_BUCKETS
        bias[first : first + NUM_BUCKETS] = row
    found = [values["coefficients"][name] for name in FEATURES]
    return bias, np.array(found, np.float32)
