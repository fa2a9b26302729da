"""The drafters by name, and how a `DraftConfig` becomes a `Drafter`.

    none             plain decoding
    prompt_lookup    the text's own past (prompt lookup decoding, as a tree)
    rest_paper       the datastore's longest matches, each counted once (the paper's REST)
    rest             the datastore's matches of every length, and the text's own past
    looped           a whole text that a looped model predicted, and the text's own past
    token_recycling  what the model last predicted after each token
    mixed            token recycling, the text's own past, and the datastore, if any

To add a drafter, write a module with a function `propose` that returns weighted
sequences, and add a line to `DRAFTERS`; `make_drafter` builds the trees of them all.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from relay_jax.config import DraftConfig
from relay_jax.decoding.draft_tree import (
    MAX_WEIGHT,
    DraftSequences,
    DraftTree,
    concatenate_sequences,
    make_tree,
)
from relay_jax.decoding.drafter import (
    DecodedText,
    Drafter,
    ignore_logits,
    no_drafter,
    no_state,
)
from relay_jax.decoding.tree_size import sizes_for
from relay_jax.rest import (
    datastore_drafter,
    looped_draft,
    prompt_lookup,
    token_recycling,
)

PLAIN = DraftConfig(drafter="none", num_draft=0)
AUTOTUNE = -1  # as `num_draft`: every step chooses its size
DATASTORE, LOOPED_DRAFT = "a datastore", looped_draft.KIND


class DrafterKind(NamedTuple):
    """How the drafters of one name work."""

    # index, state, text, config -> weighted sequences; None: nothing is ever drafted
    propose: Callable[[Any, Any, DecodedText, DraftConfig], DraftSequences] | None
    init: Callable[[DraftConfig, int], Any] | None = None  # config, vocab_size -> state
    observe: Callable[[Any, Any, Any, Any], Any] = ignore_logits  # as `Drafter`'s
    index: str = ""  # what it searches, as error messages call it
    index_is_optional: bool = False
    has_depth_decay: bool = True  # whether a node's weight falls with its depth


def propose_mixed(
    index: Any, state: Any, text: DecodedText, config: DraftConfig
) -> DraftSequences:
    """Token recycling, the text's own past, and the datastore if there is one."""
    source = prompt_lookup if index is None else datastore_drafter
    parts = (
        source.propose(index, state, text, config),
        token_recycling.propose(index, state, text, config),
    )
    return concatenate_sequences(parts)


_TABLE = {"init": token_recycling.init, "observe": token_recycling.observe}
DRAFTERS = {
    "none": DrafterKind(None),
    "prompt_lookup": DrafterKind(prompt_lookup.propose),
    "rest_paper": DrafterKind(
        datastore_drafter.propose_longest, index=DATASTORE, has_depth_decay=False
    ),
    "rest": DrafterKind(datastore_drafter.propose, index=DATASTORE),
    "looped": DrafterKind(
        looped_draft.propose, index=LOOPED_DRAFT, has_depth_decay=False
    ),
    "token_recycling": DrafterKind(token_recycling.propose, **_TABLE),
    "mixed": DrafterKind(
        propose_mixed, index=DATASTORE, index_is_optional=True, **_TABLE
    ),
}
NEEDS_DATASTORE = tuple(
    name
    for name, kind in DRAFTERS.items()
    if kind.index == DATASTORE and not kind.index_is_optional
)


def make_drafter(config: DraftConfig, num_layers: int = 1) -> Drafter:
    """The drafter of a config; equal configs give the same one, compiled once.

    Args:
      num_layers: layers of the target model that are compiled one by one; of a deep
        model, `AUTOTUNE` chooses among fewer sizes.

    Raises:
      ValueError: the config is not valid; while drafting, if the index does not fit.
    """
    check_config(config)
    if DRAFTERS[config.drafter].propose is None or config.num_draft == 0:
        return no_drafter
    sizes = ()
    if config.num_draft == AUTOTUNE:
        sizes = sizes_for(max_nodes(config), num_layers)
    return _make_drafter(config, DRAFTERS[config.drafter], sizes)


@functools.cache
def _make_drafter(
    config: DraftConfig, kind: DrafterKind, sizes: tuple[int, ...]
) -> Drafter:
    propose = kind.propose
    assert propose is not None
    num_draft = max(sizes, default=config.num_draft)
    depth_decay = config.depth_decay if kind.has_depth_decay else 1.0

    def draft(index: Any, state: Any, text: DecodedText) -> DraftTree:
        check_index(config, index)
        sequences = propose(index, state, text, config)
        dtypes = [getattr(source, "token_dtype", None) for source in (index, state)]
        pack_uint16 = any(dtype == np.uint16 for dtype in dtypes)
        return make_tree(sequences, num_draft, pack_uint16, depth_decay)

    init = functools.partial(kind.init, config) if kind.init else no_state
    return Drafter(init, draft, kind.observe, config.depth, sizes)


def resize(config: DraftConfig, num_draft: int) -> DraftConfig:
    """The same drafter with another tree size; 0 is plain decoding."""
    if num_draft == 0:
        return PLAIN
    return dataclasses.replace(config, num_draft=num_draft)


def check(config: DraftConfig, index: Any, has_logits: bool = True) -> None:
    """Raises ValueError if drafting with this config and index cannot work.

    Args:
      index: what can be searched: a datastore or its index, a `LoopedDraft`, or None.
      has_logits: whether a model decodes; in a replay there is none.
    """
    check_config(config)
    check_index(config, index)
    if DRAFTERS[config.drafter].observe is not ignore_logits and not has_logits:
        raise ValueError(f"the drafter {config.drafter!r} {token_recycling.NO_LOGITS}")


def check_config(config: DraftConfig) -> None:
    """Raises ValueError if the drafter is unknown or a value is out of range."""
    if config.drafter not in DRAFTERS:
        raise ValueError(
            f"unknown drafter {config.drafter!r}; valid drafters: {', '.join(DRAFTERS)}"
        )
    if not 0 < config.depth_decay <= 1:
        raise ValueError(
            f"depth_decay must be above 0 and at most 1, got {config.depth_decay}"
        )
    if max_total_weight(config) * (config.depth + 1) >= MAX_WEIGHT:
        rows = config.num_store_rows + config.num_text_rows
        raise ValueError(
            f"{rows} sequences of weight {_max_row_weight(config)} and depth "
            f"{config.depth} exceed what is counted exactly ({MAX_WEIGHT}); lower the "
            "depth or the weights"
        )
    maximum = max_nodes(config)
    if config.num_draft != AUTOTUNE and not 0 <= config.num_draft <= maximum:
        raise ValueError(
            f"num_draft must be 0..{maximum} with these rows, got {config.num_draft}"
        )


def check_index(config: DraftConfig, index: Any) -> None:
    """Raises ValueError if the drafter cannot search this index."""
    kind = DRAFTERS[config.drafter]
    found = "" if index is None else getattr(index, "kind", DATASTORE)
    if kind.index and kind.index != found and (found or not kind.index_is_optional):
        raise ValueError(
            f"the drafter {config.drafter!r} needs {kind.index}, and there is "
            f"{found or 'none'}; pass one, or use 'prompt_lookup', which drafts from "
            "the text alone"
        )


def max_total_weight(config: DraftConfig) -> int:
    """The largest sum of the weights of all sequences that can be proposed at once."""
    kind = DRAFTERS[config.drafter]
    rows = config.num_store_rows + config.num_text_rows
    rows += config.num_text_rows * (kind.index == DATASTORE)  # recent texts
    total = max(rows * _max_row_weight(config), config.num_paper_rows)
    if kind.index == LOOPED_DRAFT:
        total += 2 * looped_draft.WEIGHT_FACTOR * max(config.text_weights)
    if kind.propose in (token_recycling.propose, propose_mixed):
        total += config.num_paths * config.path_depth * config.path_weight
    return total


def max_nodes(config: DraftConfig) -> int:
    """The size of the largest tree that the sequences of every drafter can fill."""
    rows = config.num_store_rows + config.num_text_rows
    paths = min(config.num_paths, config.num_candidates) * config.path_depth
    fewest = min(rows, config.num_text_rows, config.num_paper_rows, paths)
    return fewest * config.depth


def _max_row_weight(config: DraftConfig) -> int:
    return max(*config.store_weights, *config.text_weights, config.recent_weight)
