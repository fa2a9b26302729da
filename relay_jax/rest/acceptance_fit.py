"""Fits the prior of `decoding/acceptance.py` to known texts.

At positions all over every text, a drafter's largest tree is compared with what follows.
The weights are the most likely ones under a weak normal prior (Newton's method).
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relay_jax.base import Array, Bool, Float, Host, Int
from relay_jax.config import DraftConfig
from relay_jax.decoding import acceptance
from relay_jax.decoding.draft_tree import NUM_KINDS
from relay_jax.decoding.drafter import DecodedText, Drafter
from relay_jax.rest import drafters
from relay_jax.rest.drafters import make_drafter
from relay_jax.rest.replay import WIDTH_STEP, Target

ROWS = 32  # positions that are drafted at once
STRIDE = 3  # between positions
PENALTY = 1.0  # of squared weights, in examples
MAX_ITERATIONS = 50
TOLERANCE = 1e-4


class Examples(NamedTuple):
    """Nodes whose parents were right."""

    features: Float[Host, "n f"]
    kind: Int[Host, " n"]
    is_accepted: Bool[Host, " n"]


def collect(
    targets: Sequence[Target], index: Any, draft: DraftConfig
) -> Iterable[Examples]:
    """Yields the examples of every text.

    Raises:
      ValueError: the draft config is not valid, or its drafter needs a model's logits.
    """
    drafters.check(draft, index, has_logits=False)
    drafter = make_drafter(draft)
    for target in targets:
        size = len(target.tokens)
        tokens = np.zeros(-(-size // WIDTH_STEP) * WIDTH_STEP, np.int32)
        tokens[:size] = target.tokens
        for first in range(target.prompt_length, size, ROWS * STRIDE):
            length = first + STRIDE * np.arange(ROWS)
            found = jax.device_get(
                _draft(tokens, length.astype(np.int32), size, index, drafter=drafter)
            )
            is_example, is_accepted, features, kind = found
            is_example = is_example & (length < size)[:, None]
            yield Examples(
                features[is_example], kind[is_example], is_accepted[is_example]
            )


def fit(parts: Sequence[Examples]) -> dict[str, Any]:
    """The content of acceptance.json: the weights, rounded, and the number of examples."""
    count = len(acceptance.FEATURES)
    weights = np.zeros(count + NUM_KINDS)
    for _ in range(MAX_ITERATIONS):
        slope, curvature = -PENALTY * weights, PENALTY * np.eye(len(weights))
        for part in parts:
            design = np.concatenate([part.features, np.eye(NUM_KINDS)[part.kind]], 1)
            chance = 1 / (1 + np.exp(-design @ weights))
            slope += design.T @ (part.is_accepted - chance)
            curvature += (design.T * (chance * (1 - chance))) @ design
        step = np.linalg.solve(curvature, slope)
        weights += step
        if np.abs(step).max() < TOLERANCE:
            break
    bias = weights[count:].reshape(-1, acceptance.NUM_BUCKETS).round(3)
    sources = zip(acceptance.SOURCES, bias.tolist())
    return {
        "coefficients": dict(
            zip(acceptance.FEATURES, weights[:count].round(3).tolist())
        ),
        "bias": {source: row for source, row in sources if any(row)},
        "examples": sum(len(part.kind) for part in parts),
        "accepted": sum(int(part.is_accepted.sum()) for part in parts),
    }


@functools.partial(jax.jit, static_argnames="drafter")
def _draft(
    tokens: Int[Array, " m"],
    length: Int[Array, " b"],
    size: Int[Array, ""],
    index: Any,
    *,
    drafter: Drafter,
) -> tuple[Array, ...]:
    """Examples, acceptance, features and kinds after the first `length` tokens."""
    rows = jnp.broadcast_to(tokens, (len(length), len(tokens)))
    tree = drafter.draft(index, (), DecodedText(rows, length))
    ahead = length[:, None] + jnp.arange(drafter.max_depth)[None]
    following = tokens[jnp.minimum(ahead, len(tokens) - 1)]
    is_example, is_accepted = acceptance.examples(tree, following, size - length)
    assert tree.evidence is not None
    features = acceptance.features(tree)
    return is_example, is_accepted, features, tree.evidence.kind
