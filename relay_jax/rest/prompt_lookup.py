"""Prompt lookup: drafts from the text itself, where its end has occurred before.

    text     the cat sat . the cat
    matches                             "the cat" at 0: continues  sat . the
                                        "cat"     ...

Only the prompt and the tokens generated so far are searched, as in prompt lookup
decoding, but for several matches, whose continuations form a tree. Recent tokens are
drafted even without a context match.
"""

from typing import Any

import jax
import jax.numpy as jnp

from relay_jax.base import Array, Int
from relay_jax.config import DraftConfig
from relay_jax.decoding.draft_tree import END, DraftSequences
from relay_jax.decoding.drafter import DecodedText
from relay_jax.rest.index import Matches
from relay_jax.rest.retrieval import MAX_MATCH, NO_CORPUS, last_tokens, weigh


def propose(
    index: Any, state: Any, text: DecodedText, config: DraftConfig
) -> DraftSequences:
    """The continuations of matches in the text itself, weighted by length."""
    del index, state
    query = last_tokens(text.tokens, text.length)
    found = match_text(
        *(text.tokens, text.length, query, config.num_text_rows, config.depth)
    )
    return weigh(found, (config.recent_weight, *config.text_weights), "text")


def match_text(
    tokens: Int[Array, "b m"],
    length: Int[Array, " b"],
    query: Int[Array, "b k"],
    num_rows: int,
    depth: int,
    near: Int[Array, " b"] | None = None,
) -> Matches:
    """Positions of a text that match a query: the longest matches, then the latest.

    The length of a match is -1 where the text has fewer positions than `num_rows`.

    Args:
      near: among matches of equal length, those nearest to this position come first.
    """
    too_few = max(num_rows - tokens.shape[1], 0)
    tokens = jnp.pad(tokens, ((0, 0), (0, too_few)))
    batch_size, size = tokens.shape
    position = jnp.arange(size)[None]
    padded = jnp.pad(tokens, ((0, 0), (MAX_MATCH, depth)), constant_values=NO_CORPUS)
    match = jnp.zeros((batch_size, size), jnp.int32)
    agree = jnp.ones((batch_size, size), bool)
    for step in range(MAX_MATCH):
        first = MAX_MATCH - 1 - step
        agree = agree & (padded[:, first : first + size] == query[:, step, None])
        match += agree
    match = jnp.where(position < length[:, None], match, -1)
    rank = position
    if near is not None:
        rank = jnp.maximum(size - 1 - jnp.abs(position - near[:, None]), 0)
    _, row = jax.lax.top_k((match * size + rank).astype(jnp.float32), num_rows)
    found = jnp.take_along_axis(match, row, axis=1)
    ahead = row[..., None] + jnp.arange(depth)[None, None]
    tokens = padded[jnp.arange(batch_size)[:, None, None], ahead + MAX_MATCH]
    inside = ahead < length[:, None, None]
    return Matches(jnp.where(inside, tokens, END), found)
