"""A request: prompts, and how they are continued with drafts.

    for output in run(Request(...), steps_per_output=8):
        print(output.texts)

This is the loop around `decode.advance` that chat, generation and the question
benchmarks share: it reads the prompts, compiles, measures the times of steps if the size
of the draft tree is open, and then decodes, timed, a few steps at a time.
"""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from relay_jax.base import PyTree
from relay_jax.config import DraftConfig, ModelConfig, SamplingConfig
from relay_jax.decoding import decode
from relay_jax.decoding.decode import DecodeState
from relay_jax.decoding.drafter import Drafter
from relay_jax.rest import autotune, drafters
from relay_jax.rest.drafters import PLAIN
from relay_jax.rest.output import GenerationOutput
from relay_jax.tokenizers import Tokenizer, check_ids

MIN_ROOM = 64  # padded prompt lengths are powers of two, so that few are compiled
STOP_STEPS = 16  # steps between two searches for stop strings


class Request(NamedTuple):
    """A model, prompts, and everything that the generated tokens depend on."""

    params: PyTree
    model: ModelConfig
    tokenizer: Tokenizer
    prompts: list[list[int]]
    max_new_tokens: int  # for each prompt
    eos_ids: decode.EndIds  # each of them ends a text
    draft: DraftConfig = PLAIN  # num_draft may be `drafters.AUTOTUNE`
    index: Any = None  # of the datastore
    sampling: SamplingConfig = decode.GREEDY
    seed: int = 0  # row i uses `fold_in(key(seed), i)`
    stop: tuple[str, ...] = ()  # strings before which a text is cut
    max_length: int = 0  # tokens, with the prompt, at which texts end; 0: no limit
    cache_file: Any = None  # of measured step times


def run(request: Request, steps_per_output: int = 0) -> Iterator[GenerationOutput]:
    """Decodes a request; yields the output before the first step and as it grows.

    The last output is complete.

    Args:
      steps_per_output: steps between two outputs; 0: as many as possible.

    Raises:
      ValueError: a setting is out of range, a prompt is empty or has ids outside the
        vocabulary, or the drafter lacks its datastore.
    """
    drafters.check(request.draft, request.index)
    warn_of_unused(request.sampling)
    draft = drafters.resize(request.draft, request.draft.num_draft)
    request = request._replace(draft=draft)
    drafter = autotune.make_drafter(draft, request.params, request.model)
    state, output = _begin(request, drafter)
    times = autotune.measure_times(
        *(request.params, state, drafter, request.index),
        draft=draft,
        cache_file=request.cache_file,
        **_settings(request),
    )
    state = autotune.set_times(state, times)
    for _ in range(2):  # compiles, for the state of `start` and of `advance`
        state = _advance(request, state, drafter, 0)
    num_steps = steps_per_output or (STOP_STEPS if request.stop else decode.NO_LIMIT)
    seconds = 0.0
    while True:
        state, output = _look(request, state, output)
        sizes = autotune.draft_sizes(state, draft, drafter)
        yield output._replace(seconds=seconds, draft_sizes=sizes)
        if all(output.finish_reasons):
            return
        begin = time.perf_counter()
        state = _advance(request, state, drafter, num_steps)
        seconds += time.perf_counter() - begin


def prompt_room(length: int) -> int:
    """The padded length of prompts, the longest of which has `length` tokens."""
    return max(MIN_ROOM, 1 << max(length - 1, 0).bit_length())


def warn_of_unused(sampling: SamplingConfig) -> None:
    """Logs a warning if settings are given that greedy decoding does not use."""
    names = ("top_p", "top_k", "min_p") if sampling.is_greedy else ()
    unused = [
        f"{name}={value:g}"
        for name in names
        if (value := getattr(sampling, name)) != getattr(decode.GREEDY, name)
    ]
    if unused:
        logging.warning(
            "%s has no effect at temperature %g, which is greedy decoding; give a "
            "temperature above 0",
            *(", ".join(unused), sampling.temperature),
        )


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


def _begin(request: Request, drafter: Drafter) -> tuple[DecodeState, GenerationOutput]:
    """The state after the prompts have been read, and the output without new tokens."""
    if request.max_new_tokens < 1:
        raise ValueError(
            f"max_new_tokens must be 1 or more, got {request.max_new_tokens}"
        )
    model, prompts, limit = request.model, request.prompts, request.max_length
    banned = np.array(request.sampling.rules.suppress_tokens, int)
    size = model.vocab_size
    check_ids(banned, size, "suppress_tokens", f"but the vocabulary has {size} tokens")
    if len(np.unique(banned)) == size:
        raise ValueError(
            f"suppress_tokens has all {size} tokens of the vocabulary; leave some out"
        )
    longest = max(map(len, prompts), default=0)
    if not limit:
        warn_of_length(model, longest, request.max_new_tokens)
    padded = decode.pad_prompts(prompts, model.vocab_size, prompt_room(longest))
    begin = time.perf_counter()
    state = decode.start(
        request.params,
        *padded,
        decode.request_keys(request.seed, len(prompts)),
        drafter,
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
        draft_sizes={},
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


def _advance(
    request: Request, state: DecodeState, drafter: Drafter, num_steps: int
) -> DecodeState:
    state = decode.advance(
        *(request.params, state, drafter),
        request.index if request.draft.num_draft else None,
        num_steps=num_steps,
        **_settings(request),
    )
    return jax.block_until_ready(state)


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
