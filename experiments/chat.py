"""Talks with a model in a terminal, with drafts or without.

    python -m experiments.chat --run=vicuna-7b-v1.5 --template=vicuna --drafter=context
    python -m experiments.chat --run=vicuna-7b-v1.5 --template=vicuna --datastore=STORE \
        --temperature=0.7 --top_p=0.8

Answers are shown as they are written, and after each one its speed. `/new` begins anew;
an end of file (Ctrl-D) or `/quit` ends. --drafter=none decodes plainly.
"""

import sys
import time
from collections.abc import Iterator

import numpy as np
from absl import flags

from experiments import command, drafting, prompting
from relay_jax.config import SamplingConfig
from relay_jax.conversation import TEMPLATES
from relay_jax.rest import decode
from relay_jax.tokens import UNFINISHED, Tokenizer, decode_spans

_TEMPLATE = flags.DEFINE_enum("template", "plain", list(TEMPLATES), "How it is asked.")
_MOST = flags.DEFINE_integer("max_new_tokens", 1024, "Of an answer, at most.", 1)
_TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "0 is greedy.")
_TOP_P = flags.DEFINE_float("top_p", 1.0, "Least mass of the words drawn from.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the noise when sampling.", 0)
STREAM_STEPS = 4  # steps between two looks at the text


def main() -> None:
    config, tokenizer = prompting.open_run()
    drafts, _, index = drafting.from_flags(tokenizer)
    draft, fit = drafting.one(drafts), None
    settings = {
        "model": config.model,
        "sampling": SamplingConfig(_TEMPERATURE.value, _TOP_P.value),
        "eos_id": prompting.end_ids(tokenizer),
    }
    params = prompting.load_params(config, index)
    questions, answers = [], []
    while (question := _listen()) not in (None, "/quit"):
        if question == "/new":
            questions, answers = [], []
            continue
        questions.append(question)
        text = TEMPLATES[_TEMPLATE.value](questions, answers)
        ids = tokenizer.encode(text)
        room = 1 << (len(ids) - 1).bit_length()  # few lengths: few compilations
        begin = time.perf_counter()
        state = decode.start(
            params,
            *decode.pad_prompts([ids], config.model.num_words, room),
            decode.request_keys(_SEED.value + len(answers), 1),
            model=config.model,
            max_new_tokens=_MOST.value,
        )
        if fit is None:
            state, fit, draft = drafting.choose(params, state, index, draft, settings)
        how = (index, draft, fit, STREAM_STEPS, settings)
        state, answer = _write(drafting.watch(params, state, *how), len(ids), tokenizer)
        answers.append(answer)
        seconds = time.perf_counter() - begin
        new, steps = int(state.length[0]) - len(ids), int(state.steps[0])
        print(f"\n[{new} tokens, {new / seconds:.1f} a second, M = {new / steps:.2f}]")


def _write(
    watched: Iterator[decode.DecodeState], first: int, tokenizer: Tokenizer
) -> tuple[decode.DecodeState, str]:
    """Prints an answer while it grows: the last state, and the whole answer."""
    shown = ""
    for state in watched:
        length = int(state.length[0])
        tokens = np.asarray(state.tokens[0, :length])
        (text,) = decode_spans(tokenizer, tokens, [first, length])
        if not state.done.all():
            text = text.rstrip(UNFINISHED)
        print(text[len(shown) :], end="", flush=True)
        shown = text
    return state, shown


def _listen() -> str | None:
    """The next line that is not empty; None at the end of all."""
    if sys.stdin.isatty():
        print("> ", end="", flush=True)
    for line in sys.stdin:
        if line.strip():
            return line.strip()
    return None


if __name__ == "__main__":
    command.run(main)
