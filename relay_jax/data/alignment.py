"""Rounds -> training batches. The only file that knows how chains are laid out.

A looped batch right-aligns problem and rounds in n columns (RELAY section 3.2). Round t
is trained where M_t = 1: on its tokens and on the one pad just before them, the
*boundary pad*, which says where the round begins. Pads further left are not trained.

    problem     [ARI] 3  *  2  +  6  /  3  =
    round 1       .   .  .  .  6  +  6  /  3  =          M_1   0 0 0 1 1 1 1 1 1 1
    round 2       .   .  .  .  .  .  6  +  2  =          M_2   0 0 0 0 0 1 1 1 1 1
    round 3       .   .  .  .  .  .  .  .  .  8          M_3   0 0 0 0 0 0 0 0 1 1

(one more column stands on the left of the problem here.) A decoder batch writes the same
example from left to right; everything after the problem is trained, to `<eos>`:

    tokens      [ARI] 3*2+6/3=  6+6/3=  6+2=  8  <eos>
    trained       0   00000000  111111  1111  1    1
"""

import math

import numpy as np

from relay_jax.base import Bool, DecoderBatch, Examples, Host, Int, LoopedBatch
from relay_jax.tasks.task import Task
from relay_jax.vocabulary import EOS, PAD

WIDTH_STEP = 16  # widths differ by this much, so that few shapes need compiling


def looped_batch(
    examples: Examples, task: Task, num_loops: int, width: int = 0, columns: int = 0
) -> LoopedBatch:
    """Aligns examples for the looped model, by default as narrow as they permit.

    Args:
      columns: r; by default as many as there are.

    Raises:
      ValueError: a chain has more rounds than there are loops.
    """
    most = int(examples.num_rounds.max())
    if most > num_loops:
        raise ValueError(
            f"{task.name}: a chain of {most} rounds does not fit {num_loops} loops"
        )
    width = width or looped_width(examples, task)
    problem = right_align(examples.problem, width)
    told = right_align(examples.rounds, min(columns or width, width))
    rounds = np.full((len(problem), num_loops, told.shape[-1]), PAD, told.dtype)
    rounds[:, : told.shape[1]] = told[:, :num_loops]
    rounds = rounds.transpose(1, 0, 2)
    mask = round_mask(rounds)
    arrays = problem, rounds, mask, examples.answer, examples.num_rounds
    return LoopedBatch(*map(_on_device, arrays))


def cut_chains(examples: Examples, max_rounds: int) -> Examples:
    """Only the first rounds of each chain; where more follow, there is no answer
    (`<pad>`), because it is not reached."""
    reached = examples.num_rounds <= max_rounds
    return examples._replace(
        rounds=examples.rounds[:, :max_rounds],
        num_rounds=np.minimum(examples.num_rounds, max_rounds),
        answer=np.where(reached, examples.answer, PAD),
    )


def longest_width(task: Task, longest: int) -> int:
    """n, that problems of length `longest` could need."""
    return max(task.problem_size(longest), task.round_size(longest) + 1)


def looped_width(examples: Examples, task: Task, longest: int = 0) -> int:
    """n: room for the problem, and for every round with its boundary pad.

    Narrower by multiples of `WIDTH_STEP` than what problems of length `longest` (by
    default the longest here) could need.
    """
    bound = longest_width(task, longest or int(examples.length.max()))
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
    room = max(width - tokens.shape[-1], 0)
    padded = np.pad(
        tokens, [(0, 0)] * (tokens.ndim - 1) + [(0, room)], constant_values=PAD
    )
    moved = np.take_along_axis(padded, np.maximum(source, 0), axis=-1)
    return np.where(source >= 0, moved, PAD)


def left_align(tokens: Int[Host, "*b n"]) -> Int[Host, "*b n"]:
    """Moves the tokens of each row to its left end, whatever pads stand among them."""
    order = np.argsort(tokens == PAD, axis=-1, kind="stable")
    return np.take_along_axis(tokens, order, axis=-1)


def round_mask(rounds: Int[Host, "*b n"]) -> Bool[Host, "*b n"]:
    """M_t: a right-aligned round's tokens and its boundary pad."""
    told = rounds != PAD
    boundary = np.zeros_like(told)
    boundary[..., :-1] = told[..., 1:]
    return told | boundary


def decoder_batch(examples: Examples, task: Task, longest: int = 0) -> DecoderBatch:
    """Writes problem, chain and answer from left to right, as narrow as they permit; or
    as wide as problems of length `longest` could need.

    Raises:
      ValueError: they need more.
    """
    tokens, problem_sizes = flatten(examples, task)
    needed = int(sizes(tokens).max())
    wanted = (
        task.problem_size(longest) + text_room(task, longest) if longest else needed
    )
    if needed > wanted:
        raise ValueError(
            f"{task.name}: a text of {needed} tokens does not fit the {wanted} that "
            f"problems of length {longest} need"
        )
    width = -(-wanted // WIDTH_STEP) * WIDTH_STEP
    room = max(width - tokens.shape[1], 0)
    tokens = np.pad(tokens, ((0, 0), (0, room)), constant_values=PAD)[:, :width]
    column = np.arange(width)[None]
    trained = (column >= problem_sizes[:, None]) & (tokens != PAD)
    return DecoderBatch(_on_device(tokens), trained)


def text_room(task: Task, length: int) -> int:
    """Tokens that the longest text after a problem needs."""
    return task.chain_size(length) + 2  # and the answer and `<eos>`


def flatten(examples: Examples, task: Task) -> tuple[Int[Host, "b n"], Int[Host, " b"]]:
    """The decoder's text of each example, and how many of its tokens are the problem."""
    num, shape = len(examples.problem), examples.rounds.shape
    end = np.full((num, 1), EOS, examples.problem.dtype)
    parts = [examples.problem, examples.rounds.reshape(num, math.prod(shape[1:]))]
    if not task.answer_in_chain:
        parts.append(examples.answer[:, None].astype(end.dtype))
    loose = np.concatenate([*parts, end], axis=1)
    kept = loose != PAD
    place = np.cumsum(kept, axis=1) - 1
    packed = np.full_like(loose, PAD)
    packed[np.nonzero(kept)[0], place[kept]] = loose[kept]
    return packed, sizes(examples.problem)


def sizes(tokens: Int[Host, "*b r"]) -> Int[Host, "*b"]:
    """How many tokens stand before the padding."""
    return np.sum(tokens != PAD, axis=-1)


def _on_device(array: Host) -> Host:
    """Devices count in 32 bits; masks stay masks."""
    return array if array.dtype == bool else array.astype(np.int32)
