"""Examples as vectors of tokens, for storage: one vector of 16-bit integers each.

Its length and its answer, the problem, and every round, each ended by `<pad>`:

    1 6 <pad>   [ARI] 3 * 2 = <pad>   6 <pad>       (the second 6 is a token too)

So nothing is stored for padding, and a whole batch is taken apart in a few array
operations.
"""

import numpy as np

from relay_jax.base import Examples, Host
from relay_jax.tasks import Task
from relay_jax.tasks.task import TOKEN_TYPE, empty_tokens
from relay_jax.vocabulary import PAD


def encode(examples: Examples) -> list[Host]:
    """One vector for each example, laid out as above."""
    num, most = examples.rounds.shape[:2]
    ended = [(0, 0), (0, 1)]  # every part gets a last column for its end
    head = np.stack([examples.length, examples.answer], axis=1)
    head = np.pad(head, ended, constant_values=PAD)
    problem = np.pad(examples.problem, ended, constant_values=PAD)
    rounds = np.pad(examples.rounds, [(0, 0), *ended], constant_values=PAD)
    kept = [head != PAD, problem != PAD, rounds != PAD]
    for part in kept:
        part[..., -1] = True
    kept[2] &= (np.arange(most) < examples.num_rounds[:, None])[..., None]

    wide = np.concatenate([head, problem, rounds.reshape(num, -1)], axis=1)
    kept = np.concatenate([part.reshape(num, -1) for part in kept], axis=1)
    tokens = wide[kept].astype(TOKEN_TYPE)
    return np.split(tokens, np.cumsum(kept.sum(axis=1))[:-1])


def decode(vectors: list[bytes], task: Task, longest: int) -> Examples:
    """The examples that `encode` was given, padded for problems up to `longest`."""
    num, most = len(vectors), task.num_rounds(longest)
    width = np.array(
        [2, task.problem_size(longest), *[task.round_size(longest)] * most]
    )
    column = np.cumsum(width + 1) - (width + 1)  # where parts begin in a padded row
    total = int(np.sum(width + 1))

    tokens = np.frombuffer(b"".join(vectors), TOKEN_TYPE)
    start = np.cumsum([0, *map(len, vectors[:-1])]) // tokens.itemsize
    end = np.flatnonzero(tokens == PAD)
    begin = np.append(0, end[:-1] + 1)  # of each part of each example
    row = np.searchsorted(start, begin, side="right") - 1
    part = np.arange(len(begin)) - np.searchsorted(begin, start)[row]
    move = row * total + column[part] - begin
    padded = empty_tokens(num * total)
    padded[np.repeat(move, end + 1 - begin) + np.arange(len(tokens))] = tokens

    head, problem, rounds = np.split(padded.reshape(num, total), column[1:3], axis=1)
    rounds = rounds.reshape(num, most, -1)[..., :-1]
    num_rounds = np.bincount(row) - 2
    return Examples(
        problem[:, :-1], rounds, num_rounds, head[:, 1], head[:, 0].astype(np.int64)
    )
