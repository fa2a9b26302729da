"""Accuracy by length: of answers, chains, tokens and rounds (RELAY, section 4)."""

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

DETAILS = ("round_accuracy", "hit_accuracy")  # many records: one per round or token
FINAL_OFFSET = 2**20  # of indices: final problems are not those used in training


class Score(NamedTuple):
    """Which predictions of a model are correct, for each example."""

    length: Int[Host, " b"]
    answer: Bool[Host, " b"]  # the final answer
    rounds: Bool[Host, "b t"]  # all tokens of each round; after the last round: empty
    hits: Bool[Host, "b t r"]  # each token of each round, right-aligned
    is_token: Bool[Host, "b t r"]  # the columns in which the true rounds have tokens

    @property
    def chain(self) -> Bool[Host, " b"]:
        """Whether every round is correct."""
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
    """Compares a model's predictions, without teacher forcing, with the true chains."""
    predict = PREDICTORS[model.kind]
    answer, rounds, _ = predict(params, model, task, examples, batch_size)
    width = rounds.shape[-1]
    true_rounds = right_align(examples.rounds, width)
    is_token = true_rounds != PAD
    return Score(
        length=examples.length,
        answer=answer == examples.answer,
        rounds=np.all(rounds == true_rounds, axis=-1),
        hits=(rounds == true_rounds) & is_token,
        is_token=is_token,
    )


def make_records(
    scored: Score, common: dict, detailed: Collection[int] = ()
) -> list[dict]:
    """Records of the accuracy of answers, chains and tokens for each length.

    `count` is the number of examples; in records of a round or a token, the number of
    examples that have it.

    Args:
      detailed: lengths that also get a record for each round, and for each token of
        each round (`position` counts from the right: 0 is the last token).
    """
    records = []
    for length in np.unique(scored.length):
        part = Score(*(field[scored.length == length] for field in scored))
        num, hit_share = len(part.length), part.hits.sum() / max(part.is_token.sum(), 1)
        rows = [
            ("answer_accuracy", part.answer.mean(), num, {}),
            ("chain_accuracy", part.chain.mean(), num, {}),
            ("token_accuracy", hit_share, num, {}),
        ]
        if length in detailed:
            rows += _detail_rows(part)
        with_length = common | {"length": int(length)}
        records += [
            make_record(
                **with_length,
                metric=metric,
                value=float(value),
                count=int(count),
                **where,
            )
            for metric, value, count, where in rows
        ]
    return records


def _detail_rows(score: Score) -> Iterator[tuple[str, float, int, dict[str, int]]]:
    num_with_round = score.is_token.any(axis=-1).sum(axis=0)
    rounds = round_accuracy(score)
    for t in np.flatnonzero(num_with_round).tolist():
        yield "round_accuracy", rounds[t], num_with_round[t], {"round": t}
    num_with_token, matrix = score.is_token.sum(axis=0), hit_matrix(score)
    last = matrix.shape[1] - 1
    for t, column in np.argwhere(num_with_token).tolist():
        where = {"round": t, "position": last - column}
        yield "hit_accuracy", matrix[t, column], num_with_token[t, column], where


def round_accuracy(score: Score) -> Float[Host, " t"]:
    """The fraction of examples with a correct round t, of those that have a round t."""
    has_round = score.is_token.any(axis=-1)
    correct = score.rounds & has_round
    return correct.sum(axis=0) / np.maximum(has_round.sum(axis=0), 1)


def hit_matrix(score: Score) -> Float[Host, "t r"]:
    """The accuracy of each column of each round (RELAY, Figures 5 and 6).

    It is NaN where no example has a token.
    """
    count = score.is_token.sum(axis=0)
    return np.where(count > 0, score.hits.sum(axis=0) / np.maximum(count, 1), np.nan)
