"""The size of the draft tree, chosen anew for every decode step.

    tokens(C)    expected new tokens: one for each text, and for each of the C heaviest
                 nodes the probability that it is accepted (`acceptance.py`)
    seconds(C)   the time of a step that verifies C nodes, as measured (`rest.autotune`)
    C            where tokens(C) / seconds(C) is highest; 0 is a plain step

The draft is made first, since drafting costs little; how much of it is verified depends
on it. A plain step also shows which drafts would have been right, so that drafting
resumes after a dull stretch. Where drafting is not cheap beside a plain step, some steps
of such a stretch go without a draft, so that it costs at most `MAX_PROBING` of the time.
Where it is so dear that good drafts would not pay, a text begins with such steps.
"""

from typing import NamedTuple

import jax.numpy as jnp

from relay_jax.base import Array, Bool, Float, Int
from relay_jax.decoding import acceptance
from relay_jax.decoding.acceptance import AcceptanceModel
from relay_jax.decoding.draft_tree import DraftTree

SIZES = (0, 1, 2, 4, 8, 16, 32, 64)
# Fewer of them for a deep model, whose layers are compiled for each size: on two cores,
# that takes seconds. Most of what a choice gains is already gained by three sizes.
FEWER_SIZES = ((0, 8), (0, 4, 16), (0, 2, 8, 32))
MAX_LAYERS = 100  # of all sizes together
NODE_COST = 1 / 16  # of a node, in plain steps, until times have been measured
MAX_PROBING = 0.02  # of the time of a text on which drafts are of no use
# Drafting pauses after so many drafts in turn that do not pay, or after fewer that
# together have cost a plain step.
PATIENCE = 4
MAX_PAUSE = 512  # steps
GOOD_DRAFT = 4  # tokens of a step with a good draft
FREE = -1  # as `forced`: no size is


class StepSeconds(NamedTuple):
    """The times of decode steps."""

    drafted: Float[Array, " k"]  # by the number of nodes that are verified
    plain: Float[Array, ""]  # without a draft


class TreeSizing(NamedTuple):
    """What the choice of the size carries from step to step; of the whole batch."""

    model: AcceptanceModel
    seconds: StepSeconds
    number: Int[Array, ""]  # of the chosen size
    forced: Int[Array, ""]  # the number of a size that is timed; or `FREE`
    dull: Int[Array, ""]  # drafts in turn that did not pay
    pause: Int[Array, ""]  # steps that will go without a draft
    counts: Int[Array, " k"]  # steps by size


def sizes_for(max_nodes: int, num_layers: int) -> tuple[int, ...]:
    """The sizes to choose from.

    Args:
      max_nodes: of the largest tree.
      num_layers: layers that are compiled for each size.
    """
    count = MAX_LAYERS // num_layers
    chosen = next(
        (few for few in FEWER_SIZES[::-1] if len(few) <= count), FEWER_SIZES[0]
    )
    chosen = SIZES if count > len(FEWER_SIZES[-1]) else chosen
    return tuple(size for size in chosen if size <= max_nodes)


def first_sizing(sizes: tuple[int, ...]) -> TreeSizing:
    """The state before the first step, with times that have not been measured."""
    nodes = jnp.array(sizes, jnp.float32)
    return TreeSizing(
        acceptance.prior(),
        StepSeconds(1.0 + NODE_COST * nodes, jnp.array(1.0, jnp.float32)),
        number=jnp.array(0, jnp.int32),
        forced=jnp.array(FREE, jnp.int32),
        dull=jnp.array(0, jnp.int32),
        pause=jnp.array(0, jnp.int32),
        counts=jnp.zeros(len(sizes), jnp.int32),
    )


def with_times(sizing: TreeSizing, seconds: StepSeconds) -> TreeSizing:
    """The state before the first step, with times that have been measured."""
    cheapest = jnp.min(seconds.drafted[1:], initial=jnp.inf)  # the only size may be 0
    pays = cheapest <= GOOD_DRAFT * seconds.plain
    pause = jnp.where(pays, 0, _pause(seconds)).astype(jnp.int32)
    return sizing._replace(seconds=seconds, pause=pause)


def choose(
    sizing: TreeSizing,
    sizes: tuple[int, ...],
    tree: DraftTree,
    is_open: Bool[Array, " b"],
) -> TreeSizing:
    """The state with the size for the next step, whose draft is the tree.

    Once a draft is made its time is spent, and its nodes may be worth verifying although
    a step without a draft would have been better: such a draft did not pay either.

    Args:
      is_open: which texts are not finished.
    """
    chance = acceptance.path_probability(sizing.model, tree)
    chance = jnp.sum(jnp.where(is_open[:, None], chance, 0.0), axis=0)
    gain = jnp.pad(jnp.cumsum(chance), (1, 0))[jnp.array(sizes)]
    rate = (is_open.sum() + gain) / sizing.seconds.drafted
    is_free = sizing.forced == FREE
    number = jnp.where(is_free, jnp.argmax(rate), sizing.forced).astype(jnp.int32)
    pays = (number > 0) & (rate.max() > is_open.sum() / sizing.seconds.plain)
    dull = jnp.where(pays | ~is_free, 0, sizing.dull + 1)
    is_enough = (dull >= PATIENCE) | (dull * _drafting(sizing.seconds) >= 1)
    begins = is_enough & (sizing.pause == 0)
    pause = jnp.where(begins, _pause(sizing.seconds), sizing.pause - 1)
    return sizing._replace(number=number, dull=dull, pause=jnp.maximum(pause, 0))


def update(
    sizing: TreeSizing,
    tree: DraftTree,
    following: Int[Array, "b s"],
    count: Int[Array, " b"],
) -> TreeSizing:
    """The state after a step.

    Args:
      tree: what was drafted, of which a part was verified.
      following: the tokens that were generated, `count` of them in each row.
    """
    model = acceptance.update(sizing.model, tree, following, count)
    counts = sizing.counts.at[sizing.number].add(1)
    return sizing._replace(model=model, counts=counts)


def _pause(seconds: StepSeconds) -> Int[Array, ""]:
    """How many steps without a draft make one with a draft cheap enough."""
    steps = jnp.ceil(_drafting(seconds) / MAX_PROBING) - 1
    return jnp.clip(steps, 0, MAX_PAUSE).astype(jnp.int32)


def _drafting(seconds: StepSeconds) -> Float[Array, ""]:
    """The time of making a draft, in plain steps."""
    return jnp.maximum(seconds.drafted[0] / seconds.plain - 1, 0.0)
