"""Drafts from a datastore: REST, as in the paper and with weighted matches.

    rest_paper   the longest matches only, each counted once (REST, section 3)
    rest         matches of every length, weighted by it, and the text's own past

The index may include texts that were finished after the datastore was built
(`index.IndexWithRecent`): these are searched too, position by position.
"""

from typing import Any

import jax.numpy as jnp

from relay_jax.base import AnyArray, Int
from relay_jax.config import DraftConfig
from relay_jax.decoding.draft_tree import END, DraftSequences, concatenate_sequences
from relay_jax.decoding.drafter import DecodedText
from relay_jax.rest import prompt_lookup, retrieval
from relay_jax.rest.prompt_lookup import match_text


def propose(
    index: Any, state: Any, text: DecodedText, config: DraftConfig
) -> DraftSequences:
    """Continuations of matches in the datastore and the text, weighted by length."""
    query = retrieval.last_tokens(text.tokens, text.length)
    found = retrieval.nearest(index, query, config.num_store_rows, config.depth)
    stored = retrieval.weigh(found, (0, *config.store_weights), "datastore")
    past = prompt_lookup.propose(index, state, text, config)
    return _with_recent((stored, past), index, query, config)


def propose_longest(
    index: Any, state: Any, text: DecodedText, config: DraftConfig
) -> DraftSequences:
    """The paper's policy: continuations of the longest matches, with equal weights."""
    del state
    query = retrieval.last_tokens(text.tokens, text.length)
    found = retrieval.longest(index, query, config.num_paper_rows, config.depth)
    stored = retrieval.weigh(found, (0, 1), "datastore")
    return _with_recent((stored,), index, query, config)


def propose_recent(
    recent: Int[AnyArray, " n"], eos_id: Any, query: Any, config: DraftConfig
) -> DraftSequences:
    """Continuations within recently finished texts.

    Their weights are those of the datastore, to which they will be added: another text
    is less predictive than the text's own past.

    Args:
      recent: `IndexWithRecent.recent`.
      eos_id: the token that ends each of the texts; nothing is drafted beyond it.
      query: `retrieval.last_tokens`.
    """
    shape = len(query), len(recent)
    found = match_text(
        jnp.broadcast_to(recent, shape),
        jnp.full(len(query), shape[1]),
        query,
        config.num_text_rows,
        config.depth,
    )
    ends = (found.tokens == eos_id).astype(jnp.int32)
    inside = jnp.cumsum(ends, axis=-1) - ends == 0
    found = found._replace(tokens=jnp.where(inside, found.tokens, END))
    return retrieval.weigh(found, (0, *config.store_weights), "datastore")


def _with_recent(
    parts: tuple[DraftSequences, ...], index: Any, query: Any, config: DraftConfig
) -> DraftSequences:
    if index.recent is not None:
        parts += (propose_recent(index.recent, index.eos_id, query, config),)
    return concatenate_sequences(parts)
