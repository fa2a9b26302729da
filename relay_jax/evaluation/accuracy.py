"""Accuracy by length: of answers, whole chains, tokens, rounds (RELAY section 4)."""

from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np

from relay_jax.base import Bool, Examples, Float, Host, Int, PyTree
from relay_jax.config import ModelConfig
from relay_jax.data.alignment import right_align
from relay_jax.data.sources import SyntheticSource, concatenate
from relay_jax.evaluation.predict import PREDICTORS
from relay_jax.files import make_record
from relay_jax.tasks import Task
from relay_jax.vocabulary import PAD

DETAILS = ("round_accuracy", "hit_accuracy")  # many records, of a round or a place each
FINAL_OFFSET = 2**20  # final problems are not those met while training


class Score(NamedTuple):
    """What was right, example by example."""

    length: Int[Host, " b"]
    answer: Bool[Host, " b"]  # the final answer
    rounds: Bool[Host, "b t"]  # each round, to the token; after the last: empty
    hits: Bool[Host, "b t r"]  # each token of each round, right-aligned
    told: Bool[Host, "b t r"]  # which of these places hold a token

    @property
    def chain(self) -> Bool[Host, " b"]:
        """Whether every round is right."""
        return np.all(self.rounds, axis=-1)


def test_problems(
    task: Task, lengths: list[int], count: int, seed: int, *, final: bool
) -> Examples:
    """`count` test problems of each length."""
    indices = np.arange(count) + (FINAL_OFFSET if final else 0)
    parts = [SyntheticSource(task, (n, n), seed, "test").take(indices) for n in lengths]
    return concatenate(parts)


def score(
    params: PyTree, model: ModelConfig, task: Task, examples: Examples, batch_size: int
) -> Score:
    """Runs a model on problems, freely (no teacher), and compares with the truth."""
    say = PREDICTORS[model.kind]
    answer, rounds, _ = say(params, model, task, examples, batch_size)
    width = rounds.shape[-1]
    truth = right_align(examples.rounds, width)
    told = truth != PAD
    return Score(
        length=examples.length,
        answer=answer == examples.answer,
        rounds=np.all(rounds == truth, axis=-1),
        hits=(rounds == truth) & told,
        told=told,
    )


def make_records(
    scored: Score, common: dict, detailed: Collection[int] = ()
) -> list[dict]:
    """Records by length: answers, chains, tokens; of the `detailed` lengths also each
    round and each place of each round, counted from the right: 0 is the last token.

    `count` is how many examples there are; of a round or a place, how many have it.
    """
    lines = []
    for length in np.unique(scored.length):
        at = scored.length == length
        part = Score(*(field[at] for field in scored))
        num, share = int(at.sum()), part.hits.sum() / max(part.told.sum(), 1)
        rows = [
            ("answer_accuracy", part.answer.mean(), num, {}),
            ("chain_accuracy", part.chain.mean(), num, {}),
            ("token_accuracy", share, num, {}),
        ]
        if length in detailed:
            rows += _detail_rows(part)
        measured = common | {"length": int(length)}
        lines += [
            make_record(
                **measured, metric=metric, value=float(value), count=int(count), **rest
            )
            for metric, value, count, rest in rows
        ]
    return lines


def _detail_rows(score: Score) -> Iterator[tuple[str, float, int, dict[str, int]]]:
    have_round, rounds = score.told.any(axis=-1).sum(axis=0), round_accuracy(score)
    for t in np.flatnonzero(have_round).tolist():
        yield "round_accuracy", rounds[t], have_round[t], {"round": t}
    have_place, matrix = score.told.sum(axis=0), hit_matrix(score)
    last = matrix.shape[1] - 1
    for t, column in np.argwhere(have_place).tolist():
        where = {"round": t, "position": last - column}
        yield "hit_accuracy", matrix[t, column], have_place[t, column], where


def round_accuracy(score: Score) -> Float[Host, " t"]:
    """The share of examples whose round t is right to the token, of those with one."""
    has_round = score.told.any(axis=-1)
    right = score.rounds & has_round
    return right.sum(axis=0) / np.maximum(has_round.sum(axis=0), 1)


def hit_matrix(score: Score) -> Float[Host, "t r"]:
    """Accuracy of each place of each round (Figures 5 and 6); NaN where no token is."""
    count = score.told.sum(axis=0)
    return np.where(count > 0, score.hits.sum(axis=0) / np.maximum(count, 1), np.nan)
