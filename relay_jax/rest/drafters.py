"""Drafters: each guesses how a text goes on, as weighted rows of tokens.

    none         nothing: plain decoding
    context      the text's own past (prompt lookup, as a tree)
    rest_paper   the datastore, places with the longest match only, each counted once
    rest         the datastore, matches of every length, and the text's own past

A row's weight grows with the length of its match, and the text's own past weighs more
than the corpus; what was said last may be said again, whatever stood before it. The
further ahead a token is, the less its weight counts, but for the paper's drafter.
`tree.make_tree` makes one tree of all rows.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from relay_jax.arrays import Array, Int
from relay_jax.config import DraftConfig
from relay_jax.rest import retrieve
from relay_jax.rest.index import AnyIndex
from relay_jax.rest.retrieve import Matches
from relay_jax.rest.tree import MOST_WEIGHT, Rows, Tree, empty_tree, make_tree


class Text(NamedTuple):
    """What a drafter sees."""

    tokens: Int[Array, "b m"]
    length: Int[Array, " b"]


def rest(text: Text, index, config: DraftConfig) -> Rows:
    query = retrieve.last_tokens(*text)
    size = (config.num_store_rows, config.depth)
    found = retrieve.nearest(index, query, *size)
    rows = _weigh(found, (0, *config.store_weights))
    own = _own_rows(text, query, config)
    return Rows(*(jnp.concatenate(part, axis=1) for part in zip(rows, own)))


def rest_paper(text: Text, index, config: DraftConfig) -> Rows:
    query = retrieve.last_tokens(*text)
    size = (config.num_paper_rows, config.depth)
    found = retrieve.longest(index, query, *size)
    return Rows(found.tokens, (found.length > 0).astype(jnp.int32))


def context(text: Text, index, config: DraftConfig) -> Rows:
    del index
    return _own_rows(text, retrieve.last_tokens(*text), config)


DRAFTERS = {"none": None, "context": context, "rest_paper": rest_paper, "rest": rest}
NEEDS_STORE = ("rest", "rest_paper")


def draft(
    text: Text,
    index: AnyIndex | None,
    config: DraftConfig,
) -> Tree:
    """The draft tree under a text's last token."""
    drafter = DRAFTERS[config.drafter]
    if drafter is None or config.num_draft == 0:
        return empty_tree(len(text.length))
    rows = drafter(text, index, config)
    narrow = index is not None and index.token_dtype == np.uint16
    fading = 1.0 if drafter is rest_paper else config.fading
    return make_tree(rows, config.num_draft, narrow, fading)


def check(config: DraftConfig, has_store: bool) -> None:
    """Raises ValueError at a draft config that cannot work."""
    if config.drafter not in DRAFTERS:
        raise ValueError(
            f"unknown drafter {config.drafter!r}; valid drafters: {', '.join(DRAFTERS)}"
        )
    if config.drafter in NEEDS_STORE and not has_store:
        raise ValueError(
            f"the drafter {config.drafter!r} needs a datastore; give one, or take "
            "'context', which drafts from the text alone"
        )
    rows = config.num_store_rows + config.num_text_rows
    heaviest = max(*config.store_weights, *config.text_weights, config.recent_weight)
    if not 0 < config.fading <= 1:
        raise ValueError(f"fading must be above 0 and at most 1, got {config.fading}")
    most = max(rows * heaviest, config.num_paper_rows)
    if most * (config.depth + 1) >= MOST_WEIGHT:
        raise ValueError(
            f"{rows} rows of weight {heaviest} and depth {config.depth} exceed what is "
            f"counted exactly ({MOST_WEIGHT}); lower the depth or the weights"
        )
    places = most_nodes(config)
    if not 0 <= config.num_draft <= places:
        raise ValueError(
            f"num_draft must be 0..{places} with these rows, got {config.num_draft}"
        )


def most_nodes(config: DraftConfig) -> int:
    """The largest tree that any drafter's rows can fill."""
    rows = config.num_store_rows + config.num_text_rows
    return min(rows, config.num_text_rows, config.num_paper_rows) * config.depth


def _own_rows(text: Text, query, config: DraftConfig) -> Rows:
    found = retrieve.own_text(*text, query, config.num_text_rows, config.depth)
    return _weigh(found, (config.recent_weight, *config.text_weights))


def _weigh(found: Matches, weights: tuple[int, ...]) -> Rows:
    """The weight of each row by the length of its match, 0, 1, ...; of longer ones the
    last, of no match at all (-1) none."""
    table = np.pad(np.array((0, *weights), np.int32), (0, 16), mode="edge")
    return Rows(found.tokens, jnp.asarray(table)[found.length + 1])
