"""Serialization of examples: each becomes one vector of 16-bit integers.

The vector is a list of parts, each ended by `<pad>`: the length and the answer, the
problem, and every round.

    1 6 <pad>   [ARI] 3 * 2 = <pad>   6 <pad>       (both 6 are the token of the number)

So padding takes no space, and a whole batch is decoded in a few array operations.
"""

import numpy as np

from relay_jax.base import Examples, Host
from relay_jax.tasks import Task
from relay_jax.tasks.task import TOKEN_TYPE, empty_tokens
from relay_jax.vocabulary import PAD


def encode(examples: Examples) -> list[Host]:
    """One vector per example, in the layout above."""
    num, max_rounds = examples.rounds.shape[:2]
    one_more = [(0, 0), (0, 1)]  # a last column for the `<pad>` that ends a part
    head = np.stack([examples.length, examples.answer], axis=1)
    head = np.pad(head, one_more, constant_values=PAD)
    problem = np.pad(examples.problem, one_more, constant_values=PAD)
    rounds = np.pad(examples.rounds, [(0, 0), *one_more], constant_values=PAD)
    is_stored = [head != PAD, problem != PAD, rounds != PAD]
    for part in is_stored:
        part[..., -1] = True
    is_stored[2] &= (np.arange(max_rounds) < examples.num_rounds[:, None])[..., None]

    padded = np.concatenate([head, problem, rounds.reshape(num, -1)], axis=1)
    stored = np.concatenate([part.reshape(num, -1) for part in is_stored], axis=1)
    tokens = padded[stored].astype(TOKEN_TYPE)
    return np.split(tokens, np.cumsum(stored.sum(axis=1))[:-1])


def decode(vectors: list[bytes], task: Task, longest: int) -> Examples:
    """Inverts `encode`; the examples are padded for problems of length `longest`."""
    num, max_rounds = len(vectors), task.num_rounds(longest)
    round_sizes = [task.round_size(longest)] * max_rounds
    width = np.array([2, task.problem_size(longest), *round_sizes])
    column = np.cumsum(width + 1) - (
        width + 1
    )  # where each part starts in a padded row
    total = int(np.sum(width + 1))

    tokens = np.frombuffer(b"".join(vectors), TOKEN_TYPE)
    start = np.cumsum([0, *map(len, vectors[:-1])]) // tokens.itemsize
    end = np.flatnonzero(tokens == PAD)
    begin = np.append(0, end[:-1] + 1)  # of each part of each example
    row = np.searchsorted(start, begin, side="right") - 1
    part = np.arange(len(begin)) - np.searchsorted(begin, start)[row]
    offset = row * total + column[part] - begin
    padded = empty_tokens(num * total)
    padded[np.repeat(offset, end + 1 - begin) + np.arange(len(tokens))] = tokens

    head, problem, rounds = np.split(padded.reshape(num, total), column[1:3], axis=1)
    rounds = rounds.reshape(num, max_rounds, -1)[..., :-1]
    num_rounds = np.bincount(row) - 2
    return Examples(
        problem[:, :-1], rounds, num_rounds, head[:, 1], head[:, 0].astype(np.int64)
    )
