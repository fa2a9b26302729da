"""Drafters: each guesses how a text goes on, as weighted rows of tokens.

    none         nothing: plain decoding
    context      the text's own past (prompt lookup, as a tree)
    rest_paper   the datastore, places with the longest match only, each counted once
    rest         the datastore, matches of every length, and the text's own past
    guess        a whole text that somebody foretold, and the text's own past
    recycle      what the model itself last held likely after each word (`followers`)
    mixed        that, the text's own past, and the datastore where there is one

A row's weight grows with the length of its match, and the text's own past weighs more
than the corpus; what was said last may be said again, whatever stood before it. The
further ahead a token is, the less its weight counts, but for the paper's drafter.
`tree.make_tree` makes one tree of all rows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from relay_jax.base import AnyArray, Array, Int
from relay_jax.config import DraftConfig
from relay_jax.decoding.draft_tree import (
    END,
    MAX_WEIGHT,
    DraftSequences,
    Tree,
    concatenate_sequences,
    empty_tree,
    make_tree,
)
from relay_jax.rest import retrieval, token_recycling
from relay_jax.rest.index import AnyIndex, IndexWithRecent
from relay_jax.rest.retrieval import Matches
from relay_jax.rest.token_recycling import AdjacencyTable


class Text(NamedTuple):
    """What a drafter sees."""

    tokens: Int[Array, "b m"]
    length: Int[Array, " b"]
    followers: AdjacencyTable | None = None  # that the model told so far, for all texts


def rest(text: Text, index, config: DraftConfig) -> DraftSequences:
    query = retrieval.last_tokens(text.tokens, text.length)
    size = (config.num_store_rows, config.depth)
    found = retrieval.nearest(index, query, *size)
    rows = _weigh(found, (0, *config.store_weights))
    return concatenate_sequences((rows, _own_rows(text, query, config)))


def rest_paper(text: Text, index, config: DraftConfig) -> DraftSequences:
    query = retrieval.last_tokens(text.tokens, text.length)
    size = (config.num_paper_rows, config.depth)
    found = retrieval.longest(index, query, *size)
    return DraftSequences(found.tokens, (found.length > 0).astype(jnp.int32))


def context(text: Text, index, config: DraftConfig) -> DraftSequences:
    del index
    return _own_rows(text, retrieval.last_tokens(text.tokens, text.length), config)


class LoopedDraft(NamedTuple):
    """What each text is expected to become, its prompt included; `guess`'s index.

    RELAY's looped model says a whole chain at once (`relay_jax/relay/looped_drafter.py`): what the
    decoder writes is then verified many tokens a step, and stays the decoder's own.
    """

    tokens: Int[AnyArray, "b g"]
    length: Int[AnyArray, " b"]

    @property
    def token_dtype(self) -> np.dtype:
        return np.dtype(np.int32)


def guess(text: Text, index: LoopedDraft, config: DraftConfig) -> DraftSequences:
    """Where the guess goes on, by its places that match the text's end: the longest
    match, then the place nearest to the text's own length. After a mismatch the guess is
    found again where it agrees."""
    query = retrieval.last_tokens(text.tokens, text.length)
    tokens, length = jnp.asarray(index.tokens), jnp.asarray(index.length)
    found = retrieval.own_text(
        tokens, length, query, LOOPED_ROWS, config.depth, near=text.length
    )
    rows = _weigh(found, (0, *(LOOPED_WEIGHT * w for w in config.text_weights)))
    # Of places that match alike, the nearest: each next row weighs less.
    rows = rows._replace(weight=rows.weight >> jnp.arange(LOOPED_ROWS)[None])
    return concatenate_sequences((rows, _own_rows(text, query, config)))


def recycle(text: Text, index, config: DraftConfig) -> DraftSequences:
    del index
    if text.followers is None:
        raise ValueError(f"the drafter {config.drafter!r} {NO_LOGITS}")
    last = text.tokens[jnp.arange(len(text.length)), text.length - 1]
    depth = min(config.path_depth, config.depth)
    rows = token_recycling.draft_paths(
        text.followers,
        last,
        num_paths=config.num_paths,
        depth=depth,
        weight=config.path_weight,
        power=config.path_power,
    )
    longer = ((0, 0), (0, 0), (0, config.depth - depth))
    return rows._replace(tokens=jnp.pad(rows.tokens, longer, constant_values=END))


def mixed(text: Text, index: AnyIndex | None, config: DraftConfig) -> DraftSequences:
    others = context if index is None else rest
    return concatenate_sequences(
        (others(text, index, config), recycle(text, None, config))
    )


LOOPED_ROWS = 4  # places in the guess
LOOPED_WEIGHT = 32  # of a match in the guess, times that of one in the text


class Drafter(NamedTuple):
    """How one of them works."""

    rows: Callable[[Text, Any, DraftConfig], DraftSequences] | None
    looks_into: str = ""  # "a datastore", "a guess"
    is_optional: bool = False  # whether it works without
    recycles: bool = False  # whether it looks at what the model told of other words
    fades: bool = True  # whether nodes weigh less the deeper they are


STORE, LOOPED_DRAFT = "a datastore", "a guess"
NO_LOGITS = (
    "drafts from the model's own logits, and there are none: measure it while a model "
    "decodes (rest_benchmark; `decode.start` takes `known`), not in a replay"
)
DRAFTERS = {
    "none": Drafter(None),
    "prompt_lookup": Drafter(context),
    "rest_paper": Drafter(rest_paper, STORE, fades=False),
    "rest": Drafter(rest, STORE),
    "looped": Drafter(guess, LOOPED_DRAFT, fades=False),
    "token_recycling": Drafter(recycle, recycles=True),
    "mixed": Drafter(mixed, STORE, is_optional=True, recycles=True),
}
NEEDS_STORE = tuple(
    name
    for name, one in DRAFTERS.items()
    if one.looks_into == STORE and not one.is_optional
)


def draft(
    text: Text,
    index: AnyIndex | IndexWithRecent | LoopedDraft | None,
    config: DraftConfig,
) -> Tree:
    """The draft tree under a text's last token."""
    drafter = DRAFTERS[config.drafter]
    if drafter.rows is None or config.num_draft == 0:
        return empty_tree(len(text.length))
    if isinstance(index, IndexWithRecent):
        rows = drafter.rows(text, index.store, config)
        rows = concatenate_sequences((rows, _live_rows(text, index, config)))
    else:
        rows = drafter.rows(text, index, config)
    narrow = index is not None and index.token_dtype == np.uint16
    if text.followers is not None:
        narrow = len(text.followers.tokens) < 2**16
    depth_decay = config.depth_decay if drafter.fades else 1.0
    return make_tree(rows, config.num_draft, narrow, depth_decay)


def initial_table(config: DraftConfig, vocab_size: int) -> AdjacencyTable | None:
    """The empty table for a drafter that looks at one."""
    if not DRAFTERS[config.drafter].recycles:
        return None
    return token_recycling.empty_table(
        vocab_size, min(config.num_candidates, vocab_size)
    )


def check(config: DraftConfig, index: Any, has_logits: bool = True) -> None:
    """Raises ValueError at a draft config that cannot work.

    Args:
      index: what there is to look into: a datastore's index, a `LoopedDraft`, None.
      has_logits: whether a model decodes; there is none in a replay.
    """
    if config.drafter not in DRAFTERS:
        raise ValueError(
            f"unknown drafter {config.drafter!r}; valid drafters: {', '.join(DRAFTERS)}"
        )
    drafter = DRAFTERS[config.drafter]
    needs = drafter.looks_into
    held = (
        LOOPED_DRAFT
        if isinstance(index, LoopedDraft)
        else STORE
        if index is not None
        else ""
    )
    if needs and needs != held and (held or not drafter.is_optional):
        raise ValueError(
            f"the drafter {config.drafter!r} needs {needs}, and there is "
            f"{held or 'none'}; give one, or take 'prompt_lookup', which drafts from the text "
            "alone"
        )
    if drafter.recycles and not has_logits:
        raise ValueError(f"the drafter {config.drafter!r} {NO_LOGITS}")
    rows = config.num_store_rows + config.num_text_rows
    rows += config.num_text_rows * isinstance(index, IndexWithRecent)
    heaviest = max(*config.store_weights, *config.text_weights, config.recent_weight)
    if not 0 < config.depth_decay <= 1:
        raise ValueError(
            f"depth_decay must be above 0 and at most 1, got {config.depth_decay}"
        )
    most = max(rows * heaviest, config.num_paper_rows)
    if needs == LOOPED_DRAFT:
        most += 2 * LOOPED_WEIGHT * max(config.text_weights)
    if drafter.recycles:
        most += config.num_paths * config.path_depth * config.path_weight
    if most * (config.depth + 1) >= MAX_WEIGHT:
        raise ValueError(
            f"{rows} rows of weight {heaviest} and depth {config.depth} exceed what is "
            f"counted exactly ({MAX_WEIGHT}); lower the depth or the weights"
        )
    places = max_nodes(config)
    if not 0 <= config.num_draft <= places:
        raise ValueError(
            f"num_draft must be 0..{places} with these rows, got {config.num_draft}"
        )


def max_nodes(config: DraftConfig) -> int:
    """The largest tree that any drafter's rows can fill."""
    rows = config.num_store_rows + config.num_text_rows
    paths = min(config.num_paths, config.num_candidates) * config.path_depth
    fewest = min(rows, config.num_text_rows, config.num_paper_rows, paths)
    return fewest * config.depth


def _own_rows(text: Text, query, config: DraftConfig) -> DraftSequences:
    found = retrieval.own_text(
        *(text.tokens, text.length, query, config.num_text_rows, config.depth)
    )
    return _weigh(found, (config.recent_weight, *config.text_weights))


def _live_rows(
    text: Text, index: IndexWithRecent, config: DraftConfig
) -> DraftSequences:
    """What was said in texts that are finished weighs as the store does, to which they
    will be added: another text tells less than this one's own past."""
    query = retrieval.last_tokens(text.tokens, text.length)
    shape = len(query), len(index.recent)
    found = retrieval.own_text(
        jnp.broadcast_to(index.recent, shape),
        jnp.full(len(query), shape[1]),
        query,
        config.num_text_rows,
        config.depth,
    )
    ends = (found.tokens == index.eos_id).astype(jnp.int32)
    inside = jnp.cumsum(ends, axis=-1) - ends == 0
    found = found._replace(tokens=jnp.where(inside, found.tokens, END))
    return _weigh(found, (0, *config.store_weights))


def _weigh(found: Matches, weights: tuple[int, ...]) -> DraftSequences:
    """The weight of each row by the length of its match, 0, 1, ...; of longer ones the
    last, of no match at all (-1) none."""
    table = np.pad(np.array((0, *weights), np.int32), (0, 16), mode="edge")
    return DraftSequences(found.tokens, jnp.asarray(table)[found.length + 1])
