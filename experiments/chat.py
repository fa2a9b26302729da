"""Talks with a model in a terminal, with drafts or without.

    python -m experiments.chat --run=vicuna-7b-v1.5 --template=vicuna --drafter=prompt_lookup
    python -m experiments.chat --run=vicuna-7b-v1.5 --template=vicuna --datastore=STORE \
        --temperature=0.7 --top_p=0.8

Answers are shown as they are written, and after each one its speed: of decoding, once all
is compiled. `/new` begins anew, Ctrl-C ends an answer; an end of file (Ctrl-D) or `/quit`
ends. --drafter=none decodes plainly.
"""

import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import command, drafting, prompting
from relay_jax.chat_template import TEMPLATES
from relay_jax.config import MAX_SEED, DraftConfig, ModelConfig, SamplingConfig
from relay_jax.decoding import decode
from relay_jax.rest import autotune
from relay_jax.rest.drafters import PLAIN, make_drafter
from relay_jax.tokenizers import UNFINISHED, Tokenizer, decode_spans

_TEMPLATE = flags.DEFINE_enum("template", "plain", list(TEMPLATES), "How it is asked.")
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", 1024, "Of an answer, at most.", 1, 2**30
)
_TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "0 is greedy.")
_TOP_P = flags.DEFINE_float("top_p", 1.0, "Least mass of the words drawn from.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the noise when sampling.", 0, MAX_SEED)
STREAM_STEPS = 4  # steps between two looks at the text


class Answer(NamedTuple):
    """What was written of an answer, and how fast."""

    text: str = ""
    new_tokens: int = 0
    steps: int = 0
    seconds: float = 0.0  # of decoding alone

    def tell(self) -> str:
        rate = self.new_tokens / max(self.seconds, 1e-9)
        per_step = self.new_tokens / max(self.steps, 1)
        return f"[{self.new_tokens} tokens, {rate:.1f} a second, M = {per_step:.2f}]"


def main() -> None:
    config, tokenizer = prompting.open_run()
    drafts, store = drafting.from_flags(tokenizer)
    draft, fit = drafting.one(drafts), None
    settings = {
        "model": config.model,
        "sampling": SamplingConfig(_TEMPERATURE.value, _TOP_P.value),
        "eos_id": prompting.end_ids(tokenizer),
    }
    index = drafting.load_index(store)
    params = prompting.load_params(config, index)
    questions, answers = [], []
    while (question := _listen()) not in (None, "/quit"):
        if question == "/new":
            questions, answers = [], []
            continue
        text = TEMPLATES[_TEMPLATE.value]([*questions, question], answers)
        ids = tokenizer.encode(text)
        most = config.model.context_length
        if most and len(ids) >= most:
            print(
                f"with this question the conversation has {len(ids)} tokens, but the "
                f"model was made for {most}; ask a shorter one, or begin anew with /new"
            )
            continue
        answer = Answer()
        try:
            state = _read(params, ids, len(answers), config.model, draft)
            if fit is None:  # measured beside the answer
                copy = jax.tree.map(jnp.copy, state)
                _, fit, draft = drafting.choose(params, copy, index, draft, settings)
            for used in {draft, PLAIN} if fit else {draft}:
                state = _compile(params, state, index, used, settings)
            how = (index, draft, fit, STREAM_STEPS, settings)
            watched = drafting.watch(params, state, *how)
            for answer in _write(watched, len(ids), tokenizer):
                pass
        except KeyboardInterrupt:
            print(" [ended]", end="")
        questions.append(question)
        answers.append(answer.text)
        print(f"\n{answer.tell()}")
        if most and len(ids) + answer.new_tokens >= most:
            print(
                f"the {most} tokens that the model was made for are used up; use /new"
            )


def _read(params, ids: list[int], number: int, model: ModelConfig, draft: DraftConfig):
    """The state after a conversation; its answer ends where the model's length does."""
    room = 1 << (len(ids) - 1).bit_length()  # few lengths: few compilations
    state = decode.start(
        params,
        *decode.pad_prompts([ids], model.vocab_size, room),
        decode.request_keys(_SEED.value + number, 1),
        autotune.start_drafter(draft),
        model=model,
        max_new_tokens=_MAX_NEW_TOKENS.value,
    )
    stop = jnp.minimum(state.stop, model.context_length or decode.NO_LIMIT)
    return state._replace(stop=stop)


def _compile(params, state, index, draft, settings) -> decode.DecodeState:
    """The state as it was; what decodes it is compiled by then."""
    index = index if draft.num_draft else None
    state = decode.advance(
        params, state, make_drafter(draft), index, num_steps=0, **settings
    )
    return jax.block_until_ready(state)


def _write(
    watched: Iterator[decode.DecodeState], first: int, tokenizer: Tokenizer
) -> Iterator[Answer]:
    """Prints an answer while it grows, and yields what there is of it."""
    shown, seconds, begin = "", 0.0, time.perf_counter()
    for state in watched:
        length, steps = int(state.length[0]), int(state.steps[0])
        seconds += time.perf_counter() - begin
        tokens = np.asarray(state.tokens[0, :length])
        (text,) = decode_spans(tokenizer, tokens, [first, length])
        if not state.done.all():
            text = text.rstrip(UNFINISHED)
        print(text[len(shown) :], end="", flush=True)
        shown = text
        yield Answer(shown, length - first, steps, seconds)
        begin = time.perf_counter()


def _listen() -> str | None:
    """The next line that is not empty; None at the end of all."""
    if sys.stdin.isatty():
        print("> ", end="", flush=True)
    try:
        for line in sys.stdin:
            if line.strip():
                return line.strip()
    except KeyboardInterrupt:
        pass
    return None


if __name__ == "__main__":
    command.run(main)
