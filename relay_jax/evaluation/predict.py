"""What a model says to a problem when it runs freely: answers and whole chains."""

import functools
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
    right_align,
    text_room,
)
from relay_jax.decoding import decode
from relay_jax.models.feedback import read_round
from relay_jax.models.looped import run_looped
from relay_jax.models.sharding import constrain
from relay_jax.tasks import Task
from relay_jax.vocabulary import EOS, PAD


class Predictions(NamedTuple):
    """Chains as a model wrote them."""

    answer: Int[Host, " b"]
    rounds: Int[Host, "b t n"]  # right-aligned
    confidence: Float[Host, " b"]  # probability of the least certain token written


def looped_chains(
    params: PyTree, model: ModelConfig, task: Task, examples: Examples, batch_size: int
) -> Predictions:
    """One round per loop; rounds past an example's own T are empty."""
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
    @jax.jit
    def run(params, problem, num_rounds):
        spoken = run_looped(
            params, problem, num_rounds, task=task, num_loops=num_loops, model=model
        )
        rounds = jax.vmap(read_round)(spoken.rounds).swapaxes(0, 1)
        live = np.arange(num_loops)[None] < num_rounds[:, None]
        rounds = jnp.where(live[..., None], rounds, PAD)
        certain = jnp.where(rounds != PAD, spoken.confidence.swapaxes(0, 1), 1.0).min(
            axis=(1, 2)
        )
        if not task.answer_in_chain:  # it is written after the chain
            chance = jax.nn.softmax(spoken.answer_logits.astype(jnp.float32), axis=-1)
            certain = jnp.minimum(certain, chance.max(axis=-1))
        said = jnp.argmax(spoken.answer_logits, axis=-1), rounds, certain
        return tuple(constrain(x, like=params) for x in said)  # seen by every process

    return run


def decoder_chains(
    params: PyTree, model: ModelConfig, task: Task, examples: Examples, batch_size: int
) -> Predictions:
    """Greedy text, compared with the true text place by place.

    Its tokens are put where the true chain has its own, so that rounds and places can
    be counted as for the looped model. A chain of another length is wrong as a whole,
    and so is its last round, in which it should have ended.
    """
    tokens, confidence = decoder_texts(params, model, task, examples, batch_size)
    return Predictions(*_split_text(tokens, examples, task), confidence)


def decoder_texts(
    params: PyTree, model: ModelConfig, task: Task, examples: Examples, batch_size: int
) -> tuple[Int[Host, "b n"], Float[Host, " b"]]:
    """What the decoder writes after each problem, and its least certainty.

    A problem has room for the longest chain of its length, whatever else is solved
    beside it; what is written past that room is `<pad>`.
    """
    text, prompt_size = flatten(examples, task)
    longest = int(examples.length.max())
    room, width = text_room(task, longest), task.problem_size(longest)
    num, parts = len(text), []
    for rows in batches(num, batch_size):
        state = decode.decode(
            params,
            [text[row, : prompt_size[row]] for row in rows],
            model=model,
            max_new_tokens=room,
            eos_id=EOS,
            width=width,
        )
        new = prompt_size[rows, None] + np.arange(room)
        made = np.take_along_axis(np.asarray(state.tokens), new, axis=1)
        parts.append((made, np.asarray(state.confidence)))
    tokens, confidence = (np.concatenate(part)[:num] for part in zip(*parts))
    own = np.array([text_room(task, length) for length in examples.length.tolist()])
    return np.where(np.arange(room) < own[:, None], tokens, PAD), confidence


def written_answer(
    tokens: Int[Host, "b n"],
) -> tuple[Int[Host, " b"], Int[Host, " b"]]:
    """The token before `<eos>` and the place of `<eos>`; `<pad>` and 0 without one."""
    row = np.arange(len(tokens))
    ended = np.any(tokens == EOS, axis=1)
    end = np.where(ended, np.argmax(tokens == EOS, axis=1), 0)
    return np.where(end > 0, tokens[row, np.maximum(end - 1, 0)], PAD), end


def _split_text(tokens, examples, task):
    """Generated text -> (answer, rounds laid out like the true rounds)."""
    num = len(tokens)
    answer, end = written_answer(tokens)
    width = examples.rounds.shape[-1] + 1
    truth = right_align(examples.rounds, width)
    told = (truth != PAD).reshape(num, -1)
    rounds = np.full(told.shape, PAD, tokens.dtype)
    place = np.cumsum(told, axis=1) - 1
    rounds[told] = tokens[np.nonzero(told)[0], place[told]]
    # Whatever stands after the last round must be the answer and the end, nothing else.
    chain_end = told.sum(axis=1) + (0 if task.answer_in_chain else 1)
    rounds = rounds.reshape(truth.shape)
    wrong = np.flatnonzero(end != chain_end)
    last = examples.num_rounds[wrong] - 1
    rounds[wrong, last, 0] = EOS  # never a true token of that place
    return answer, rounds


def batches(num: int, batch_size: int):
    """Row indices, batch by batch; the last batch is filled up with row 0."""
    for start in range(0, num, batch_size):
        rows = np.arange(start, start + batch_size)
        yield np.where(rows < num, rows, 0)


PREDICTORS = {"looped": looped_chains, "decoder": decoder_chains}
