"""Drafters: each guesses how a text goes on, as weighted rows of tokens.

    none         nothing: plain decoding
    context      the text's own past (prompt lookup, as a tree)
    rest_paper   the datastore, places with the longest match only, each counted once
    rest         the datastore, matches of every length, and the text's own past
    guess        a whole text that somebody foretold, and the text's own past

A row's weight grows with the length of its match, and the text's own past weighs more
than the corpus; what was said last may be said again, whatever stood before it. The
further ahead a token is, the less its weight counts, but for the paper's drafter.
`tree.make_tree` makes one tree of all rows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from relay_jax.arrays import AnyArray, Array, Int
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


class Guess(NamedTuple):
    """What each text is expected to become, its prompt included; `guess`'s index.

    RELAY's looped model says a whole chain at once (`relay_jax/foretell.py`): what the
    decoder writes is then verified many tokens a step, and stays the decoder's own.
    """

    tokens: Int[AnyArray, "b g"]
    length: Int[AnyArray, " b"]

    @property
    def token_dtype(self) -> np.dtype:
        return np.dtype(np.int32)


def guess(text: Text, index: Guess, config: DraftConfig) -> Rows:
    """Where the guess goes on, by its places that match the text's end: the longest
    match, then the place nearest to the text's own length. After a mismatch the guess is
    found again where it agrees."""
    query = retrieve.last_tokens(*text)
    tokens, length = jnp.asarray(index.tokens), jnp.asarray(index.length)
    found = retrieve.own_text(
        tokens, length, query, GUESS_ROWS, config.depth, near=text.length
    )
    rows = _weigh(found, (0, *(GUESS_WEIGHT * w for w in config.text_weights)))
    # Of places that match alike, the nearest: each next row weighs less.
    rows = rows._replace(weight=rows.weight >> jnp.arange(GUESS_ROWS)[None])
    own = _own_rows(text, query, config)
    return Rows(*(jnp.concatenate(part, axis=1) for part in zip(rows, own)))


GUESS_ROWS = 4  # places in the guess
GUESS_WEIGHT = 32  # of a match in the guess, times that of one in the text


class Drafter(NamedTuple):
    """How one of them works."""

    rows: Callable[[Text, Any, DraftConfig], Rows] | None
    needs: str = ""  # the index it looks into: "a datastore", "a guess"
    fades: bool = True  # whether nodes weigh less the deeper they are


STORE, GUESS = "a datastore", "a guess"
DRAFTERS = {
    "none": Drafter(None),
    "context": Drafter(context),
    "rest_paper": Drafter(rest_paper, STORE, fades=False),
    "rest": Drafter(rest, STORE),
    "guess": Drafter(guess, GUESS, fades=False),
}
NEEDS_STORE = tuple(name for name, one in DRAFTERS.items() if one.needs == STORE)


def draft(
    text: Text,
    index: AnyIndex | Guess | None,
    config: DraftConfig,
) -> Tree:
    """The draft tree under a text's last token."""
    drafter = DRAFTERS[config.drafter]
    if drafter.rows is None or config.num_draft == 0:
        return empty_tree(len(text.length))
    rows = drafter.rows(text, index, config)
    narrow = index is not None and index.token_dtype == np.uint16
    fading = config.fading if drafter.fades else 1.0
    return make_tree(rows, config.num_draft, narrow, fading)


def check(config: DraftConfig, index: Any) -> None:
    """Raises ValueError at a draft config that cannot work.

    Args:
      index: what there is to look into: a datastore's index, a `Guess`, None.
    """
    if config.drafter not in DRAFTERS:
        raise ValueError(
            f"unknown drafter {config.drafter!r}; valid drafters: {', '.join(DRAFTERS)}"
        )
    needs = DRAFTERS[config.drafter].needs
    held = GUESS if isinstance(index, Guess) else STORE if index is not None else ""
    if needs and needs != held:
        raise ValueError(
            f"the drafter {config.drafter!r} needs {needs}, and there is "
            f"{held or 'none'}; give one, or take 'context', which drafts from the text "
            "alone"
        )
    rows = config.num_store_rows + config.num_text_rows
    heaviest = max(*config.store_weights, *config.text_weights, config.recent_weight)
    if not 0 < config.fading <= 1:
        raise ValueError(f"fading must be above 0 and at most 1, got {config.fading}")
    most = max(rows * heaviest, config.num_paper_rows)
    if needs == GUESS:
        most += 2 * GUESS_WEIGHT * max(config.text_weights)
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
