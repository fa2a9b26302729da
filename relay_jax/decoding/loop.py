"""The loop of decoding, for any function that verifies drafts.

`decode.advance` runs it with a target model, `rest.replay` on a known text. A drafter with
several sizes drafts the largest tree; every step verifies as much of it as is expected to
pay (`tree_size.py`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from relay_jax.base import Array, Float, Int
from relay_jax.decoding import tree_size
from relay_jax.decoding.draft_tree import DraftTree, without_nodes
from relay_jax.decoding.drafter import DecodedText, Drafter
from relay_jax.decoding.state import (
    DecodeState,
    StepResult,
    accepted_tokens,
    append_accepted,
    empty_result,
    node_mask,
    node_tokens,
)
from relay_jax.decoding.verify import TargetTokens, accept


class Verification(NamedTuple):
    """What the target model computes for a draft tree."""

    target: TargetTokens
    logits: Float[Array, "b q v"] | None  # None in a replay
    entries: Any  # the nodes' keys and values, for the cache


def run_loop(
    verify: Callable[[DecodeState, DraftTree, int], Verification],
    write_cache: Callable[[Any, Any, Any, Any], Any],
    state: DecodeState,
    drafter: Drafter,
    index: Any,
    eos_id: Any,
    num_steps: int | Int[Array, ""],
) -> DecodeState:
    """The loop: draft, verify, append, until all rows are done; to be called in jit."""

    num_steps = jnp.asarray(num_steps, jnp.int32)

    def is_open(carry):
        count, state = carry
        return ~jnp.all(state.done) & (count < num_steps)

    def draft(state: DecodeState) -> DraftTree:
        text = DecodedText(state.tokens, state.length)
        return drafter.draft(index, state.drafter_state, text)

    def accept_draft(state: DecodeState, tree: DraftTree) -> StepResult:
        max_depth = min(drafter.max_depth, tree.tokens.shape[1])
        target, logits, entries = verify(state, tree, max_depth)
        accepted = accept(tree, target.token, max_depth)
        drafter_state = drafter.observe(
            *(state.drafter_state, node_tokens(state, tree)),
            *(logits, node_mask(state, tree)),
        )
        new = accepted_tokens(state, target, accepted, eos_id)
        is_new = jnp.arange(new.tokens.shape[1])[None] < new.count[:, None]
        cache = write_cache(state.cache, entries, accepted.path, is_new)
        return StepResult(new, tree.valid.sum(axis=1), cache, drafter_state)

    def step(carry):
        count, state = carry
        if drafter.sizes:
            state = _adaptive_step(draft, accept_draft, state, drafter)
        else:
            state = append_accepted(state, accept_draft(state, draft(state)))
        return count + 1, state

    _, state = jax.lax.while_loop(is_open, step, (jnp.zeros((), jnp.int32), state))
    return state


def _adaptive_step(
    draft: Callable[[DecodeState], DraftTree],
    accept_draft: Callable[[DecodeState, DraftTree], StepResult],
    state: DecodeState,
    drafter: Drafter,
) -> DecodeState:
    """A step that verifies as many nodes of the draft as are expected to pay."""

    def skip(state):
        shapes = jax.eval_shape(draft, state)
        return without_nodes(shapes)

    is_drafted = state.sizing.pause == 0
    tree = jax.lax.cond(is_drafted, draft, skip, state)
    sizing = tree_size.choose(state.sizing, drafter.sizes, tree, ~state.done)
    result = empty_result(state, drafter.max_depth + 1)
    for number, size in enumerate(drafter.sizes):

        def accept_head(carry, size=size):
            _, (_, _, cache, drafter_state) = carry
            begun = state._replace(cache=cache, drafter_state=drafter_state)
            found = accept_draft(begun, tree.head(size))
            return jnp.bool_(False), found.widen(drafter.max_depth + 1)

        # A loop of at most one turn: `lax.cond` would copy the key-value cache.
        carry = sizing.number == number, result
        _, result = jax.lax.while_loop(lambda carry: carry[0], accept_head, carry)
    new = result.new
    sizing = tree_size.update(sizing, tree, new.tokens, new.count)
    return append_accepted(state, result)._replace(sizing=sizing)
