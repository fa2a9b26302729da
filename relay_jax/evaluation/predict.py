"""Predictions of a trained model for problems: the answers and the whole chains.

Both kinds of models predict without teacher forcing: the looped model one round per
loop, the decoder a text, token by token.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from relay_jax.base import Examples, Float, Host, Int, PyTree
from relay_jax.config import ModelConfig
from relay_jax.data.alignment import (
    flatten,
    looped_batch,
    looped_width,
    max_new_tokens,
    right_align,
)
from relay_jax.decoding import decode
from relay_jax.jax_settings import standard_settings
from relay_jax.models.registry import run_looped
from relay_jax.models.scratchpad import read_round
from relay_jax.models.sharding import constrain
from relay_jax.tasks import Task
from relay_jax.vocabulary import EOS, PAD


class Predictions(NamedTuple):
    """Answers and chains that a model predicted."""

    answer: Int[Host, " b"]
    rounds: Int[Host, "b t n"]  # right-aligned
    confidence: Float[Host, " b"]  # probability of the least certain predicted token


def predict_looped(
    params: PyTree, model: ModelConfig, task: Task, examples: Examples, batch_size: int
) -> Predictions:
    """Predicts one round per loop; rounds after an example's own T are empty."""
    num_loops = int(examples.num_rounds.max())
    width = looped_width(examples, task)
    run = _looped_runner(model, task, num_loops)
    parts = []
    for rows in batches(len(examples.problem), batch_size):
        part = Examples(*(field[rows] for field in examples))
        batch = looped_batch(part, task, num_loops, width)
        parts.append(jax.device_get(run(params, batch.problem, batch.num_rounds)))
    answer, rounds, confidence = (
        np.concatenate(field)[: len(examples.problem)] for field in zip(*parts)
    )
    return Predictions(answer, rounds, confidence)


@functools.lru_cache(maxsize=8)
def _looped_runner(model: ModelConfig, task: Task, num_loops: int):
    """The compiled model: (params, problem, num_rounds) -> the fields of Predictions."""

    @jax.jit
    @standard_settings()
    def run(params, problem, num_rounds):
        scratchpad = None
        if model.uses_feedback:
            scratchpad = task.scratchpad(problem, num_loops)
        output = run_looped(
            params,
            problem,
            num_rounds,
            num_loops=num_loops,
            model=model,
            scratchpad=scratchpad,
        )
        rounds = jax.vmap(read_round)(output.rounds).swapaxes(0, 1)
        in_chain = np.arange(num_loops)[None] < num_rounds[:, None]
        rounds = jnp.where(in_chain[..., None], rounds, PAD)
        token_confidence = output.confidence.swapaxes(0, 1)
        confidence = jnp.where(rounds != PAD, token_confidence, 1.0).min(axis=(1, 2))
        if not task.answer_in_chain:  # the answer head's token follows the chain
            logits = output.answer_logits.astype(jnp.float32)
            answer_probs = jax.nn.softmax(logits, axis=-1)
            confidence = jnp.minimum(confidence, answer_probs.max(axis=-1))
        answer = jnp.argmax(output.answer_logits, axis=-1)
        # Every process of a mesh gets the results of all of them.
        return tuple(constrain(x, like=params) for x in (answer, rounds, confidence))

    return run


def predict_decoder(
    params: PyTree, model: ModelConfig, task: Task, examples: Examples, batch_size: int
) -> Predictions:
    """Decodes greedily, and arranges the text in the rounds of the true chain.

    Each token is put where the true text has its token of the same index, so that
    rounds and tokens can be compared as for the looped model. A chain of another length
    has a wrong last round, as that should have ended elsewhere.
    """
    tokens, confidence = generate_texts(params, model, task, examples, batch_size)
    return Predictions(*_split_rounds(tokens, examples, task), confidence)


def generate_texts(
    params: PyTree, model: ModelConfig, task: Task, examples: Examples, batch_size: int
) -> tuple[Int[Host, "b n"], Float[Host, " b"]]:
    """The tokens that a decoder generates after each problem, and its confidence.

    The maximum number of tokens is that of the longest chain of a problem's length,
    whatever other problems are in the batch; tokens beyond it are `<pad>`.
    """
    text, prompt_size = flatten(examples, task)
    longest = int(examples.length.max())
    max_new, width = max_new_tokens(task, longest), task.problem_size(longest)
    num, parts = len(text), []
    for rows in batches(num, batch_size):
        state = decode.decode(
            params,
            [text[row, : prompt_size[row]] for row in rows],
            model=model,
            max_new_tokens=max_new,
            eos_id=EOS,
            width=width,
        )
        columns = prompt_size[rows, None] + np.arange(max_new)
        generated = np.take_along_axis(np.asarray(state.tokens), columns, axis=1)
        parts.append((generated, np.asarray(state.confidence)))
    tokens, confidence = (np.concatenate(part)[:num] for part in zip(*parts))
    room = np.array(
        [max_new_tokens(task, length) for length in examples.length.tolist()]
    )
    return np.where(np.arange(max_new) < room[:, None], tokens, PAD), confidence


def final_answer(
    tokens: Int[Host, "b n"],
) -> tuple[Int[Host, " b"], Int[Host, " b"]]:
    """The token before `<eos>` and the column of `<eos>`; `<pad>` and 0 without one."""
    row = np.arange(len(tokens))
    has_end = np.any(tokens == EOS, axis=1)
    end = np.where(has_end, np.argmax(tokens == EOS, axis=1), 0)
    return np.where(end > 0, tokens[row, np.maximum(end - 1, 0)], PAD), end


def _split_rounds(tokens, examples, task):
    """Generated text -> (answer, rounds in the layout of the true rounds)."""
    num = len(tokens)
    answer, end = final_answer(tokens)
    width = examples.rounds.shape[-1] + 1
    true_rounds = right_align(examples.rounds, width)
    is_token = (true_rounds != PAD).reshape(num, -1)
    rounds = np.full(is_token.shape, PAD, tokens.dtype)
    index = np.cumsum(is_token, axis=1) - 1  # of each true token in the text
    rounds[is_token] = tokens[np.nonzero(is_token)[0], index[is_token]]
    # After the last round, the answer and `<eos>` must follow, nothing else.
    true_end = is_token.sum(axis=1) + (0 if task.answer_in_chain else 1)
    rounds = rounds.reshape(true_rounds.shape)
    wrong = np.flatnonzero(end != true_end)
    last = examples.num_rounds[wrong] - 1
    rounds[wrong, last, 0] = EOS  # never a true token of this column
    return answer, rounds


def batches(num: int, batch_size: int) -> Iterator[Int[Host, " b"]]:
    """Yields the row indices of each batch; the last batch is filled up with row 0."""
    for start in range(0, num, batch_size):
        rows = np.arange(start, start + batch_size)
        yield np.where(rows < num, rows, 0)


PREDICTORS = {"looped": predict_looped, "decoder": predict_decoder}
