"""Continues prompts with a trained decoder, with or without drafts.

    python -m experiments.rest_generate --run=DIR/ar --drafter=prompt_lookup \
        --prompt='[ARI] (2+3)*4=' --show_accepted
    python -m experiments.rest_generate --run=DIR/ar --datastore=STORE --seed=1 \
        --prompt_file=prompts.txt --temperature=0.8 --top_p=0.95
    python -m experiments.rest_generate --run=DIR/ar --drafter=none \
        --prompt_ids=2,43,11 --print_ids --ignore_eos

Whatever drafts, the text is the same. In a terminal it is shown as it is written. How
much is drafted is measured (--num_draft=auto): where drafts do not pay, none are made.
"""

import itertools
import sys
from functools import partial

import jax
import numpy as np
from absl import flags

from experiments import command, drafting, prompting
from relay_jax.config import MAX_SEED, SamplingConfig
from relay_jax.decoding import decode, result
from relay_jax.rest import autotune
from relay_jax.tokenizers import UNFINISHED, decode_spans

_PRINT_IDS = flags.DEFINE_bool("print_ids", False, "Print ids instead of text.")
_IGNORE_EOS = flags.DEFINE_bool("ignore_eos", False, "Go on after the end of text.")
_SHOW = flags.DEFINE_bool("show_accepted", False, "Mark accepted drafts: «like this».")
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", 256, "Tokens to write at most.", 1, 2**30
)
_TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "0 is greedy.")
_TOP_P = flags.DEFINE_float("top_p", 1.0, "Least mass of the words drawn from.")
_TOP_K = flags.DEFINE_integer("top_k", 0, "Words drawn from; 0: all.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the noise when sampling.", 0, MAX_SEED)
STREAM_STEPS = 8  # steps between two looks at the text
WATCH_STEPS = 128  # steps between two looks at whether drafts pay


def main() -> None:
    sampling = SamplingConfig(_TEMPERATURE.value, _TOP_P.value, _TOP_K.value)
    config, tokenizer = prompting.open_run(needs_words=not _PRINT_IDS.value)
    drafts, store = drafting.from_flags(tokenizer)
    draft = drafting.one(drafts)
    prompts = prompting.read_prompts(tokenizer)
    tokens, length = decode.pad_prompts(prompts, config.model.vocab_size)
    prompting.check_length(config.model, int(length.max()), _MAX_NEW_TOKENS.value)
    index = drafting.load_index(store)
    params = prompting.load_params(config, index)
    settings = {
        "model": config.model,
        "sampling": sampling,
        "eos_id": decode.NO_EOS if _IGNORE_EOS.value else prompting.end_ids(tokenizer),
    }
    state = decode.start(
        params,
        *(tokens, length, decode.request_keys(_SEED.value, len(tokens))),
        autotune.start_drafter(draft),
        model=config.model,
        max_new_tokens=_MAX_NEW_TOKENS.value,
    )
    state, fit, draft = drafting.choose(params, state, index, draft, settings)
    is_watched = sys.stdout.isatty() and jax.process_count() == 1
    streams = is_watched and len(prompts) == 1
    num_steps = STREAM_STEPS if streams else WATCH_STEPS
    shown = ""
    watched = drafting.watch(params, state, index, draft, fit, num_steps, settings)
    for state in watched:
        if streams:
            text = show(state, 0, length[0], tokenizer)
            if not state.done.all():
                text = text.rstrip(UNFINISHED)
            print(text[len(shown) :], end="", flush=True)
            shown = text
    for row in range(len(prompts)):
        print("" if streams else show(state, row, length[row], tokenizer))
    rate = result.tokens_per_step(state, length)
    print(
        f"{int((np.asarray(state.length) - length).sum())} tokens in "
        f"{int(state.steps.sum())} steps (M = {rate:.2f})",
        file=sys.stderr,
    )


def show(state: decode.DecodeState, row: int, first: int, tokenizer) -> str:
    """The new text of a row; runs of accepted drafts in quotes if asked for."""
    read = _join_ids if _PRINT_IDS.value else partial(decode_spans, tokenizer)
    if _SHOW.value:
        return result.mark_accepted(state, row, int(first), read)
    (text,) = read(np.asarray(state.tokens[row]), [int(first), int(state.length[row])])
    return text


def _join_ids(ids, cuts) -> list[str]:
    return [",".join(map(str, ids[a:b])) for a, b in itertools.pairwise(cuts)]


if __name__ == "__main__":
    command.run(main, is_shared=True)
