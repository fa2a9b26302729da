"""A trial: the same questions answered plainly and with drafts, each answer timed.

A question has one turn (HumanEval) or more (MT-Bench). Later turns follow the plain
answer, whoever answers them, so that all are asked the same. One line of a records file
tells of one question: it is written when the question is done, and not asked again.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from relay_jax import files
from relay_jax.base import PyTree
from relay_jax.config import DraftConfig, ModelConfig, SamplingConfig
from relay_jax.decoding import decode
from relay_jax.rest import autotune, drafters
from relay_jax.tokenizers import Tokenizer, decode_spans

SHORTEST_ROOM = 64  # of prompts, which is a power of two: few compilations


class Question(NamedTuple):
    """What is asked, turn by turn."""

    key: str
    turns: tuple[str, ...]
    category: str = ""


class Setup(NamedTuple):
    """Who answers, and how."""

    params: PyTree
    model: ModelConfig
    tokenizer: Tokenizer
    eos_id: decode.EndIds  # ends an answer
    template: Callable[[Sequence[str], Sequence[str]], str]  # of `conversation`
    draft: DraftConfig  # with no nodes it decodes plainly, under the drafter's name
    sampling: SamplingConfig
    max_new_tokens: int
    index: Any = None
    seed: int = 0


class Answer(NamedTuple):
    text: str
    new_tokens: int
    steps: int
    seconds: float  # of decoding, the reading of the prompt not counted
    prompt_seconds: float


def run(
    trial: Setup, questions: Sequence[Question], file: epath.PathLike
) -> Iterator[dict[str, Any]]:
    """Asks what the file does not hold yet, and yields every question's line.

    What is decoded for the first time is decoded twice, and timed the second time.
    """
    held = {}
    if epath.Path(file).exists():
        held = {line["question"]: line for line in files.read_lines(file)}
        files.write_lines(file, held.values())  # without a line that was cut off
    compiled = set()
    for number, question in enumerate(questions):
        if question.key in held:
            yield held[question.key]
            continue
        line = _ask(trial._replace(seed=trial.seed + number), question, compiled)
        files.append_lines(file, [line])
        yield line


def choose_size(
    trial: Setup,
    question: Question,
    file: epath.PathLike,
    cache_file: epath.PathLike | None = None,
) -> Setup:
    """The trial with the tree size that pays on one question, if it is open; where the
    file holds answers already, with theirs."""
    if trial.draft.num_draft != autotune.AUTOTUNE:
        return trial
    for line in files.read_lines(file) if epath.Path(file).exists() else ():
        size = line["turns"][0][1]["num_draft"]
        return trial._replace(draft=dataclasses.replace(trial.draft, num_draft=size))
    ids = trial.tokenizer.encode(trial.template(question.turns[:1], ()))
    _, fit = autotune.autotune(
        *(trial.params, _read(trial, ids), trial.index),
        model=trial.model,
        draft=trial.draft,
        sampling=trial.sampling,
        eos_id=trial.eos_id,
        cache_file=cache_file,
    )
    size = fit.draft.num_draft
    return trial._replace(draft=dataclasses.replace(trial.draft, num_draft=size))


def summarise(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line a drafter over all turns: plain decoding first."""
    turns = [turn for line in lines for turn in line["turns"]]
    plain = _total(turns, 0)
    return [
        _total(turns, who)
        | {
            "speed_up": round(
                plain["ms_per_token"] / _total(turns, who)["ms_per_token"], 3
            )
        }
        for who in range(len(turns[0]))
    ]


def _ask(trial: Setup, question: Question, compiled: set) -> dict[str, Any]:
    answers, turns = [], []
    for last in range(1, len(question.turns) + 1):
        text = trial.template(question.turns[:last], answers)
        ids = trial.tokenizer.encode(text)
        plain, drafted = (
            _answer(trial._replace(draft=draft), ids, compiled)
            for draft in (decode.PLAIN, trial.draft)
        )
        answers.append(plain.text)
        told = [_tell(decode.PLAIN, plain), _tell(trial.draft, drafted)]
        told[1] |= {
            "same_text": plain.text == drafted.text,
            "speed_up": round(told[0]["ms_per_token"] / told[1]["ms_per_token"], 3),
        }
        turns.append(told)
    return {"question": question.key, "category": question.category, "turns": turns}


def _answer(trial: Setup, ids: list[int], compiled: set) -> Answer:
    """One prompt, decoded once more if something had to be compiled."""
    trial = trial._replace(draft=autotune.resize(trial.draft, trial.draft.num_draft))
    case = (_room(ids), trial.draft)
    if case not in compiled:
        _decode(trial, ids)
        compiled.add(case)
    return _decode(trial, ids)


def _decode(trial: Setup, ids: list[int]) -> Answer:
    begin = time.perf_counter()
    state = jax.block_until_ready(_read(trial, ids))
    read = time.perf_counter()
    state = jax.block_until_ready(
        decode.advance(
            *(trial.params, state, trial.index if trial.draft.num_draft else None),
            model=trial.model,
            draft=trial.draft,
            sampling=trial.sampling,
            eos_id=trial.eos_id,
        )
    )
    seconds = time.perf_counter() - read
    length = int(state.length[0])
    tokens = np.asarray(state.tokens[0, :length])
    (text,) = decode_spans(trial.tokenizer, tokens, [len(ids), length])
    steps = int(state.steps[0])
    return Answer(text, length - len(ids), steps, seconds, read - begin)


def _read(trial: Setup, ids: list[int]) -> decode.DecodeState:
    """The state after the prompt."""
    prompt = decode.pad_prompts([ids], trial.model.vocab_size, _room(ids))
    return decode.start(
        trial.params,
        *prompt,
        decode.request_keys(trial.seed, 1),
        drafters.initial_table(trial.draft, trial.model.vocab_size),
        model=trial.model,
        max_new_tokens=trial.max_new_tokens,
    )


def _room(ids: list[int]) -> int:
    return max(SHORTEST_ROOM, 1 << (len(ids) - 1).bit_length())


def _tell(draft: DraftConfig, answer: Answer) -> dict[str, Any]:
    return {
        "drafter": draft.drafter,
        "num_draft": draft.num_draft,
        "M": round(answer.new_tokens / answer.steps, 3),
        "ms_per_token": round(answer.seconds / answer.new_tokens * 1e3, 3),
    } | answer._asdict()


def _total(turns: list[list[dict[str, Any]]], who: int) -> dict[str, Any]:
    told = [turn[who] for turn in turns]
    tokens, steps, seconds = (
        sum(turn[name] for turn in told) for name in ("new_tokens", "steps", "seconds")
    )
    return {
        "drafter": told[0]["drafter"],
        "num_draft": told[0]["num_draft"],
        "answers": len(told),
        "new_tokens": tokens,
        "M": round(tokens / steps, 3),
        "M_of_answers": round(float(np.mean([turn["M"] for turn in told])), 3),
        "ms_per_token": round(seconds / tokens * 1e3, 3),
        "same_texts": float(np.mean([turn.get("same_text", True) for turn in told])),
    }
