"""Calibration: how much the match of a row is worth, counted on texts that are known.

At every place of a text, each row that a drafter finds there is held against how the text
goes on. Counted are, by where the row is from and how long its match is, the rows whose
first token is right; and how often the next token of a row is right if all before it are:

    share of rows that are right    by the length of the match
    share that stays right          token by token: how weights fade with the depth

The rows of one kind weigh together what one of them is worth: the share that is right, by
how many of them there are at a place.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from relay_jax.base import AnyArray, Array, Bool, Int
from relay_jax.config import DraftConfig
from relay_jax.rest import retrieval
from relay_jax.rest.replay import Target
from relay_jax.rest.retrieval import LONGEST_MATCH

PLACES = 64  # looked at together
WIDTH_STEP = 256  # few widths: few compilations
HEAVIEST = 1024  # of all weights
NO_TOKEN = -2  # after the end of a text


class Counts(NamedTuple):
    """Of rows from the datastore, and of rows from the text itself."""

    rows: Int[AnyArray, "2 k"]  # by the length of their match, 0 and more
    right: Int[AnyArray, "2 k"]  # those whose first token is right
    held: Int[AnyArray, " s"]  # all that are right down to each depth
    places: Int[AnyArray, ""]


def count(
    targets: Sequence[Target], index: Any, draft: DraftConfig, progress: bool = False
) -> Counts:
    """Counts over all places of the texts after their prompts."""
    total = None
    for target in tqdm(targets, desc="calibrate", disable=not progress):
        size = len(target.tokens)
        text = np.full(-(-size // WIDTH_STEP) * WIDTH_STEP, NO_TOKEN, np.int32)
        text[:size] = target.tokens
        for first in range(target.prompt_length, size, PLACES):
            length = np.arange(first, first + PLACES)
            is_place = length < size
            length = np.minimum(length, size - 1)
            found = _count(text, length, is_place, index, draft=draft)
            total = found if total is None else jax.tree.map(np.add, total, found)
    return jax.device_get(total)


@partial(jax.jit, static_argnames="draft")
def _count(
    text: Int[Array, " m"],
    length: Int[Array, " b"],
    is_place: Bool[Array, " b"],
    index: Any,
    *,
    draft: DraftConfig,
) -> Counts:
    """Of some places of one text."""
    so_far = jnp.arange(len(text))[None] < length[:, None]
    tokens = jnp.where(so_far, text[None], 0)
    ahead = length[:, None] + jnp.arange(draft.depth)[None]
    truth = jnp.take(text, ahead, mode="fill", fill_value=NO_TOKEN)
    query = retrieval.last_tokens(tokens, length)
    own = retrieval.own_text(tokens, length, query, draft.num_text_rows, draft.depth)
    stored = retrieval.nearest(index, query, draft.num_store_rows, draft.depth)
    parts = []
    for found in (stored, own):
        same = jnp.cumprod(found.tokens == truth[:, None], axis=-1)
        counts = jax.nn.one_hot(found.length, LONGEST_MATCH + 1, dtype=jnp.int32)
        counts *= is_place[:, None, None]
        told = (found.length >= 0) & is_place[:, None]
        parts.append(
            (
                counts.sum(axis=(0, 1)),
                (counts * same[..., :1]).sum(axis=(0, 1)),
                (same * told[..., None]).sum(axis=(0, 1)),
            )
        )
    (rows, right, held), others = parts[0], parts[1]
    return Counts(
        jnp.stack([rows, others[0]]),
        jnp.stack([right, others[1]]),
        held + others[2],
        is_place.sum(),
    )


def weigh(counts: Counts) -> dict[str, Any]:
    """Fields of a `DraftConfig`: weights of rows, whole numbers, and how they fade."""
    share = counts.right / (counts.rows + 4)  # few rows are not trusted
    share = np.maximum.accumulate(share, axis=1)  # a longer match is never worth less
    weight = share / np.maximum(counts.rows / max(counts.places, 1), 1)
    scale = HEAVIEST / max(weight.max(), 1e-9)
    stored, own = np.rint(weight * scale).astype(int).tolist()
    depth_decay = (counts.held[1:].sum() + 1) / (counts.held[:-1].sum() + 1)
    return {
        "store_weights": tuple(stored[1:]),
        "text_weights": tuple(own[1:]),
        "recent_weight": own[0],
        "depth_decay": round(float(depth_decay), 3),
    }
