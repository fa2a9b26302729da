"""A request: prompts, and how they are continued with drafts.

    for output in run(Request(...), steps_per_output=8):
        print(output.texts)

This is the loop around `decode.advance` that chat, generation and the question
benchmarks share: it reads the prompts, chooses the size of the draft tree if that is
open, compiles, and then decodes, timed, a few steps at a time.
"""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from relay_jax.base import Host, Int, PyTree
from relay_jax.config import DraftConfig, ModelConfig, SamplingConfig
from relay_jax.decoding import decode
from relay_jax.decoding.decode import DecodeState
from relay_jax.rest import autotune, drafters
from relay_jax.rest.autotune import AUTOTUNE, TunedDraft
from relay_jax.rest.drafters import PLAIN, make_drafter
from relay_jax.rest.output import GenerationOutput
from relay_jax.tokenizers import Tokenizer

MIN_ROOM = 64  # padded prompt lengths are powers of two, so that few are compiled
WATCH_STEPS = 128  # steps between two checks of whether drafts pay
STOP_STEPS = 16  # steps between two searches for stop strings


class Request(NamedTuple):
    """A model, prompts, and everything that the generated tokens depend on."""

    params: PyTree
    model: ModelConfig
    tokenizer: Tokenizer
    prompts: list[list[int]]
    max_new_tokens: int  # for each prompt
    eos_ids: decode.EndIds  # each of them ends a text
    draft: DraftConfig = PLAIN  # num_draft may be `AUTOTUNE`
    index: Any = None  # of the datastore
    sampling: SamplingConfig = decode.GREEDY
    seed: int = 0  # row i uses `fold_in(key(seed), i)`
    stop: tuple[str, ...] = ()  # strings before which a text is cut
    max_length: int = 0  # tokens, with the prompt, at which texts end; 0: no limit
    cache_file: Any = None  # of measured step times


def run(request: Request, steps_per_output: int = 0) -> Iterator[GenerationOutput]:
    """Decodes a request; yields the output before the first step and as it grows.

    The last output is complete. If the tree's size was open and drafts no longer pay,
    the rest is decoded plainly.

    Args:
      steps_per_output: steps between two outputs; 0: as many as possible.

    Raises:
      ValueError: a setting is out of range, a prompt is empty or has ids outside the
        vocabulary, or the drafter lacks its datastore.
    """
    state, output = _begin(request)
    draft, tuned, seconds = request.draft, None, 0.0
    if draft.num_draft == AUTOTUNE:
        state, tuned = autotune.autotune(
            *(request.params, state, request.index),
            draft=draft,
            cache_file=request.cache_file,
            **_settings(request),
        )
        draft = tuned.draft
        seconds = float(np.max(np.asarray(state.steps))) * tuned.seconds[0]
    draft = autotune.resize(draft, draft.num_draft)
    for used in {draft, PLAIN} if tuned else {draft}:
        for _ in range(2):  # compiles, for the state of `start` and of `advance`
            state = _advance(request, state, used, 0)
    num_steps = steps_per_output or _num_steps(request, tuned)
    while True:
        state, output = _look(request, state, output)
        size = draft.num_draft
        yield output._replace(seconds=seconds, tuned=tuned, num_draft=size)
        if all(output.finish_reasons):
            return
        before, begin = _progress(state), time.perf_counter()
        state = _advance(request, state, draft, num_steps)
        seconds += time.perf_counter() - begin
        if tuned and draft.num_draft and not tuned.pays(*(_progress(state) - before)):
            draft = PLAIN


def prompt_room(length: int) -> int:
    """The padded length of prompts, the longest of which has `length` tokens."""
    return max(MIN_ROOM, 1 << max(length - 1, 0).bit_length())


def check_draft(draft: DraftConfig, index: Any) -> None:
    """Raises ValueError if a draft config cannot work with this index.

    Its tree size may be `AUTOTUNE`.
    """
    is_open = draft.num_draft == AUTOTUNE
    drafters.check(autotune.resize(draft, 1) if is_open else draft, index)


def warn_of_length(model: ModelConfig, prompt: int, new: int) -> None:
    """Logs a warning if texts may exceed the model's context length.

    Args:
      prompt, new: numbers of tokens.
    """
    if 0 < model.context_length < prompt + new:
        logging.warning(
            "a prompt of %d tokens and %d new ones are more than the %d that the model "
            "was made for; what it generates beyond them may be nonsense",
            *(prompt, new, model.context_length),
        )


def _begin(request: Request) -> tuple[DecodeState, GenerationOutput]:
    """The state after the prompts have been read, and the output without new tokens."""
    check_draft(request.draft, request.index)
    if request.max_new_tokens < 1:
        raise ValueError(
            f"max_new_tokens must be 1 or more, got {request.max_new_tokens}"
        )
    model, prompts, limit = request.model, request.prompts, request.max_length
    longest = max(map(len, prompts), default=0)
    if not limit:
        warn_of_length(model, longest, request.max_new_tokens)
    padded = decode.pad_prompts(prompts, model.vocab_size, prompt_room(longest))
    begin = time.perf_counter()
    state = decode.start(
        request.params,
        *padded,
        decode.request_keys(request.seed, len(prompts)),
        autotune.start_drafter(request.draft),
        model=model,
        max_new_tokens=request.max_new_tokens,
    )
    state = jax.block_until_ready(state)
    seconds = time.perf_counter() - begin
    if limit:
        stop = jax.numpy.minimum(state.stop, limit)
        state = state._replace(stop=stop, done=state.done | (state.length >= stop))
    output = GenerationOutput(
        token_ids=[[] for _ in prompts],
        prompt_token_ids=[[int(token) for token in prompt] for prompt in prompts],
        drafted=[[] for _ in prompts],
        finish_reasons=[None for _ in prompts],
        num_steps=[0 for _ in prompts],
        seconds=0.0,
        prompt_seconds=seconds,
        num_draft=0,
        tuned=None,
        tokenizer=request.tokenizer,
        stop=request.stop,
    )
    return state, output


def _settings(request: Request) -> dict[str, Any]:
    return {
        "model": request.model,
        "sampling": request.sampling,
        "eos_id": request.eos_ids,
    }


def _advance(request: Request, state, draft: DraftConfig, num_steps: int):
    state = decode.advance(
        *(request.params, state, make_drafter(draft)),
        request.index if draft.num_draft else None,
        num_steps=num_steps,
        **_settings(request),
    )
    return jax.block_until_ready(state)


def _num_steps(request: Request, tuned: TunedDraft | None) -> int:
    """Steps between two outputs if the caller does not choose them."""
    if request.stop:
        return STOP_STEPS
    return WATCH_STEPS if tuned and tuned.draft.num_draft else decode.NO_LIMIT


def _progress(state: DecodeState) -> Int[Host, "2"]:
    """Tokens and steps of all rows so far."""
    return np.array([int(state.length.sum()), int(state.steps.sum())])


def _look(
    request: Request, state: DecodeState, output: GenerationOutput
) -> tuple[DecodeState, GenerationOutput]:
    """The output so far, and the state, in which rows with a stop string are done."""
    tokens, drafted, length, done, steps = map(
        np.asarray, (state.tokens, state.drafted, state.length, state.done, state.steps)
    )
    eos_ids = np.atleast_1d(request.eos_ids)
    new_ids, new_drafted, reasons = [], [], []
    for row, prompt in enumerate(request.prompts):
        new = slice(len(prompt), length[row])
        ids = tokens[row, new].tolist()
        ended = "stop" if ids and ids[-1] in eos_ids else "length"
        new_ids.append(ids)
        new_drafted.append(drafted[row, new].tolist())
        reasons.append(ended if done[row] else None)
    output = output._replace(
        token_ids=new_ids,
        drafted=new_drafted,
        finish_reasons=reasons,
        num_steps=steps.tolist(),
    )
    for row in range(len(new_ids)):
        size = output.stop_index(row)
        if size is not None:
            del new_ids[row][size:], new_drafted[row][size:]
            reasons[row] = "stop"
    ended = np.array([reason is not None for reason in reasons])
    if np.any(ended & ~done):
        state = state._replace(done=state.done | ended)
    return state, output
