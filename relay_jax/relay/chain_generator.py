"""Chains that a trained model generates for problems, and filters that select them.

    none            keeps all: the default, as in the paper. With an accurate looped
                    model a filter changes little, and every filter rejects mainly hard
                    problems, which skews the distribution that is learned.
    answer_agrees   keeps a chain whose answer a judge (another run) confirms; without a
                    judge, one whose answer the looped model's answer head confirms
    oracle          keeps a chain with the true answer: only possible in experiments

The last two are the filters of RELAY's baselines (section 4.3).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from relay_jax.base import Bool, Examples, Host, Int, PyTree
from relay_jax.config import ModelConfig
from relay_jax.data.alignment import left_align
from relay_jax.evaluation.predict import final_answer, generate_texts, predict_looped
from relay_jax.tasks import Task
from relay_jax.vocabulary import PAD


class ChainGenerator(NamedTuple):
    """A trained model that generates chains, or judges those of another model."""

    model: ModelConfig
    params: PyTree


class GeneratedChains(NamedTuple):
    """Chains that a model generated for some problems, with the answers for filters."""

    examples: Examples  # problems with the model's chains and answers
    chain_answer: Int[Host, " b"]  # the answer that the chain arrives at
    head_answer: Int[Host, " b"]  # of the answer head; a decoder's is chain_answer
    is_correct: Bool[Host, " b"]  # chain and answer equal the true ones


def generate(
    generator: ChainGenerator, task: Task, problems: Examples, batch_size: int
) -> GeneratedChains:
    """Generates a model's chains for problems (RELAY, section 3.3).

    The model sees only the problems; the true chains and answers are used to compute
    `is_correct`. A decoder's chain is stored as a single round, which suffices for
    training another decoder.
    """
    if generator.model.kind == "looped":
        return _generate_looped(generator, task, problems, batch_size)
    return _generate_decoder(generator, task, problems, batch_size)


def _generate_looped(generator, task, problems, batch_size) -> GeneratedChains:
    params, model = generator.params, generator.model
    predicted = predict_looped(params, model, task, problems, batch_size)
    rounds = left_align(predicted.rounds)
    chain_answer = task.chain_answer(rounds, problems.num_rounds)
    answer = chain_answer if task.answer_in_chain else predicted.answer
    is_correct = _equal_rounds(rounds, problems.rounds) & (answer == problems.answer)
    examples = problems._replace(rounds=rounds, answer=answer)
    return GeneratedChains(examples, chain_answer, predicted.answer, is_correct)


def _generate_decoder(generator, task, problems, batch_size) -> GeneratedChains:
    params, model = generator.params, generator.model
    tokens, _ = generate_texts(params, model, task, problems, batch_size)
    answer, end = final_answer(tokens)
    chain_end = end - (0 if task.answer_in_chain else 1)
    in_chain = np.arange(tokens.shape[1]) < chain_end[:, None]
    chain = np.where(in_chain, tokens, PAD)[:, None].astype(problems.rounds.dtype)
    true_chain = left_align(problems.rounds.reshape(len(tokens), 1, -1))
    is_correct = _equal_rounds(chain, true_chain) & (answer == problems.answer)
    examples = problems._replace(rounds=chain, answer=answer)
    return GeneratedChains(examples, answer, answer, is_correct)


def _equal_rounds(one, other) -> Bool[Host, " b"]:
    """Whether all rounds of an example are equal; the narrower array is padded."""
    width = max(one.shape[-1], other.shape[-1])
    one, other = (
        np.pad(x, [(0, 0), (0, 0), (0, width - x.shape[-1])]) for x in (one, other)
    )
    return np.all(one == other, axis=(1, 2))


# Returns a judge's answers to the same problems; only filters that need it call it.
Judge = Callable[[], Int[Host, " b"]]


def _keep_all(chains: GeneratedChains, problems: Examples, judge: Judge | None):
    return np.ones(len(chains.is_correct), bool)


def _keep_agreeing(chains: GeneratedChains, problems: Examples, judge: Judge | None):
    if judge is None:
        answer, other = chains.chain_answer, chains.head_answer
    else:
        answer, other = chains.examples.answer, judge()
    return (answer == other) & (answer != PAD)  # two missing answers do not agree


def _keep_correct(chains: GeneratedChains, problems: Examples, judge: Judge | None):
    return chains.examples.answer == problems.answer


FILTERS = {
    "none": _keep_all,
    "answer_agrees": _keep_agreeing,
    "oracle": _keep_correct,
}
