"""Training batches of chains: the only module that determines their layout.

A looped batch right-aligns the problem and the rounds in n columns (RELAY, section
3.2). Round t is trained where its mask M_t is 1 (`round_mask`): at its tokens and at
the one pad just before them, the *boundary pad*, which marks where the round begins.
Pads further left are not trained.

    problem     [ARI] 3  *  2  +  6  /  3  =
    round 1       .   .  .  .  6  +  6  /  3  =          M_1   0 0 0 1 1 1 1 1 1 1
    round 2       .   .  .  .  .  .  6  +  2  =          M_2   0 0 0 0 0 1 1 1 1 1
    round 3       .   .  .  .  .  .  .  .  .  8          M_3   0 0 0 0 0 0 0 0 1 1

The masks show one more column, to the left of the problem. A decoder batch has the same
example from left to right; everything after the problem is trained, up to `<eos>`:

    tokens      [ARI] 3*2+6/3=  6+6/3=  6+2=  8  <eos>
    trained       0   00000000  111111  1111  1    1
"""

import math

import numpy as np

from relay_jax.base import Bool, DecoderBatch, Examples, Host, Int, LoopedBatch
from relay_jax.tasks.task import Task
from relay_jax.vocabulary import EOS, PAD

WIDTH_STEP = 16  # widths are rounded to this, so that few shapes are compiled


def looped_batch(
    examples: Examples, task: Task, num_loops: int, width: int = 0, columns: int = 0
) -> LoopedBatch:
    """Right-aligns examples for the looped model.

    Args:
      num_loops: T, the number of loops and of rounds in the batch.
      width: n, by default the smallest that `looped_width` permits.
      columns: r, the columns in which rounds are trained; by default all n.

    Raises:
      ValueError: a chain has more rounds than there are loops.
    """
    max_rounds = int(examples.num_rounds.max())
    if max_rounds > num_loops:
        raise ValueError(
            f"{task.name}: a chain of {max_rounds} rounds does not fit {num_loops} loops"
        )
    width = width or looped_width(examples, task)
    problem = right_align(examples.problem, width)
    aligned = right_align(examples.rounds, min(columns or width, width))
    rounds = np.full((len(problem), num_loops, aligned.shape[-1]), PAD, aligned.dtype)
    rounds[:, : aligned.shape[1]] = aligned[:, :num_loops]
    rounds = rounds.transpose(1, 0, 2)
    mask = round_mask(rounds)
    arrays = problem, rounds, mask, examples.answer, examples.num_rounds
    return LoopedBatch(*map(_to_device_type, arrays))


def truncate_chains(examples: Examples, max_rounds: int) -> Examples:
    """Keeps the first rounds of each chain.

    A truncated chain does not reach its answer, so its answer becomes `<pad>`.
    """
    is_whole = examples.num_rounds <= max_rounds
    return examples._replace(
        rounds=examples.rounds[:, :max_rounds],
        num_rounds=np.minimum(examples.num_rounds, max_rounds),
        answer=np.where(is_whole, examples.answer, PAD),
    )


def max_looped_width(task: Task, longest: int) -> int:
    """The largest n that problems of length `longest` can need."""
    return max(task.problem_size(longest), task.round_size(longest) + 1)


def looped_width(examples: Examples, task: Task, longest: int = 0) -> int:
    """n, with room for the problem and for every round with its boundary pad.

    It is below `max_looped_width` by a multiple of `WIDTH_STEP`.

    Args:
      longest: the problem length that determines the maximum; by default the longest.
    """
    bound = max_looped_width(task, longest or int(examples.length.max()))
    needed = int(max(sizes(examples.problem).max(), sizes(examples.rounds).max() + 1))
    return bound - (bound - needed) // WIDTH_STEP * WIDTH_STEP


def right_align(tokens: Int[Host, "*b r"], width: int) -> Int[Host, "*b n"]:
    """Moves each row, padded on its right, to the right end of `width` columns.

    Raises:
      ValueError: a row has more tokens than there are columns.
    """
    size = sizes(tokens)[..., None]
    if size.size and size.max() > width:
        raise ValueError(f"a row of {size.max()} tokens does not fit {width} columns")
    source = np.arange(width) - (width - size)
    missing = max(width - tokens.shape[-1], 0)
    padded = np.pad(
        tokens, [(0, 0)] * (tokens.ndim - 1) + [(0, missing)], constant_values=PAD
    )
    moved = np.take_along_axis(padded, np.maximum(source, 0), axis=-1)
    return np.where(source >= 0, moved, PAD)


def left_align(tokens: Int[Host, "*b n"]) -> Int[Host, "*b n"]:
    """Moves the tokens of each row to its left end, also across pads between them."""
    order = np.argsort(tokens == PAD, axis=-1, kind="stable")
    return np.take_along_axis(tokens, order, axis=-1)


def round_mask(rounds: Int[Host, "*b n"]) -> Bool[Host, "*b n"]:
    """M_t (RELAY, section 3.2): a right-aligned round's tokens and its boundary pad."""
    is_token = rounds != PAD
    boundary = np.zeros_like(is_token)
    boundary[..., :-1] = is_token[..., 1:]
    return is_token | boundary


def decoder_batch(examples: Examples, task: Task, longest: int = 0) -> DecoderBatch:
    """Lays out problem, chain and answer from left to right.

    Args:
      longest: the batch is as wide as problems of this length can need; by default as
        narrow as the examples permit.

    Raises:
      ValueError: an example is too wide for problems of length `longest`.
    """
    tokens, problem_sizes = flatten(examples, task)
    needed = available = int(sizes(tokens).max())
    if longest:
        available = task.problem_size(longest) + max_new_tokens(task, longest)
    if needed > available:
        raise ValueError(
            f"{task.name}: a text of {needed} tokens does not fit the {available} that "
            f"problems of length {longest} need"
        )
    width = -(-available // WIDTH_STEP) * WIDTH_STEP
    missing = max(width - tokens.shape[1], 0)
    tokens = np.pad(tokens, ((0, 0), (0, missing)), constant_values=PAD)[:, :width]
    column = np.arange(width)[None]
    trained = (column >= problem_sizes[:, None]) & (tokens != PAD)
    return DecoderBatch(_to_device_type(tokens), trained)


def max_new_tokens(task: Task, length: int) -> int:
    """The maximum number of tokens after a problem: chain, answer and `<eos>`."""
    return task.chain_size(length) + 2


def flatten(examples: Examples, task: Task) -> tuple[Int[Host, "b n"], Int[Host, " b"]]:
    """The decoder's text of each example, and the number of tokens of its problem."""
    num, shape = len(examples.problem), examples.rounds.shape
    end = np.full((num, 1), EOS, examples.problem.dtype)
    parts = [examples.problem, examples.rounds.reshape(num, math.prod(shape[1:]))]
    if not task.answer_in_chain:
        parts.append(examples.answer[:, None].astype(end.dtype))
    joined = np.concatenate([*parts, end], axis=1)
    is_token = joined != PAD
    column = np.cumsum(is_token, axis=1) - 1
    packed = np.full_like(joined, PAD)
    packed[np.nonzero(is_token)[0], column[is_token]] = joined[is_token]
    return packed, sizes(examples.problem)


def sizes(tokens: Int[Host, "*b r"]) -> Int[Host, "*b"]:
    """The number of tokens of each row, without padding."""
    return np.sum(tokens != PAD, axis=-1)


def _to_device_type(array: Host) -> Host:
    """The array as JAX has it: integers become 32-bit, masks stay boolean."""
    return array if array.dtype == bool else array.astype(np.int32)
