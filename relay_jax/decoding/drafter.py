"""The interface between decoding and drafting: a drafter is three functions.

As an optax transformation is a pair of functions, `init` and `update`, a drafter is

    init     vocab_size                   -> state    its initial state; often empty
    draft    index, state, text           -> tree     tokens that may follow the text
    observe  state, tokens, logits, mask  -> state    updated by the model's logits

The decode loop calls `draft` before and `observe` after every forward pass, inside jit.
A drafter is a static argument of that loop: build one per setting and reuse it, since
each new function compiles the loop again (`rest.drafters.make_drafter` caches them).
The index that `draft` searches is a separate argument of the loop, which reads it and
never donates it. No drafter changes which tokens are generated (REST, section 3).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from relay_jax.base import Array, Bool, Float, Int, PyTree
from relay_jax.decoding.draft_tree import DraftTree, empty_tree
from relay_jax.models.sharding import param_shardings


class DecodedText(NamedTuple):
    """The texts so far: prompts and the tokens generated after them."""

    tokens: Int[Array, "b m"]  # padded on the right
    length: Int[Array, " b"]  # the last token is the root of the next draft tree


class Drafter(NamedTuple):
    """Proposes a tree of tokens that may follow a text."""

    init: Callable[[int], Any]  # vocab_size -> state, a pytree; () if it has none
    draft: Callable[[Any, Any, DecodedText], DraftTree]  # index, state, text
    observe: Callable[[Any, Any, Any, Any], Any]  # state, tokens, logits, mask -> state
    max_depth: int = 0  # the maximum depth of a node in `draft`'s trees
    sizes: tuple[int, ...] = ()  # each step chooses one of them; (): whole trees


def no_state(vocab_size: int) -> tuple[()]:
    """The empty state of a drafter that needs none."""
    del vocab_size
    return ()


def ignore_logits(
    state: Any,
    tokens: Int[Array, "b q"],
    logits: Float[Array, "b q v"] | None,
    mask: Bool[Array, "b q"],
) -> Any:
    """The `observe` of a drafter that does not use the model's logits.

    Args:
      tokens: the tokens of a forward pass.
      logits: the model's logits after each of them; None in a replay.
      mask: which of them count: not padding, not rows that have ended.
    """
    del tokens, logits, mask
    return state


def draft_nothing(index: Any, state: Any, text: DecodedText) -> DraftTree:
    """The `draft` of plain decoding: the tree that consists of its root alone."""
    del index, state
    return empty_tree(len(text.length))


no_drafter = Drafter(no_state, draft_nothing, ignore_logits)


def without_drafts(drafter: Drafter) -> Drafter:
    """Plain decoding, during which `drafter` continues to observe the model."""
    return no_drafter._replace(observe=drafter.observe)


def shard_like(params: PyTree, index: Any) -> PyTree:
    """Parameters on the mesh over which the index is sharded, if it has a `mesh`."""
    mesh = getattr(index, "mesh", None)
    if mesh is None:
        return params
    return jax.device_put(params, param_shardings(params, mesh))
