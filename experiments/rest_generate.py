"""Continues prompts with a trained decoder, with or without drafts.

    python -m experiments.rest_generate --run=DIR/ar --drafter=context \
        --prompt='[ARI] (2+3)*4=' --show_accepted
    python -m experiments.rest_generate --run=DIR/ar --datastore=STORE --seed=1 \
        --prompt_file=prompts.txt --temperature=0.8 --top_p=0.95
    python -m experiments.rest_generate --run=DIR/ar --drafter=none \
        --prompt_ids=2,43,11 --print_ids --ignore_eos

Whatever drafts, the text is the same. In a terminal it is shown as it is written.
"""

import sys

import jax
import numpy as np
from absl import flags
from etils import epath

from experiments import command, drafting
from relay_jax.config import SamplingConfig
from relay_jax.rest import decode
from relay_jax.tokens import load_tokenizer
from relay_jax.training import checkpoint

_RUN = flags.DEFINE_string("run", None, "The decoder's run directory.", required=True)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", "", "A sentencepiece file; default: the task vocabulary of the run."
)
_PROMPT = flags.DEFINE_multi_string("prompt", [], "A text to go on with; repeatable.")
_PROMPT_FILE = flags.DEFINE_string("prompt_file", "", "A file with a prompt a line.")
_PROMPT_IDS = flags.DEFINE_multi_string("prompt_ids", [], "A prompt as ids: 1,2,3.")
_PRINT_IDS = flags.DEFINE_bool("print_ids", False, "Print ids instead of text.")
_IGNORE_EOS = flags.DEFINE_bool("ignore_eos", False, "Go on after the end of text.")
_SHOW = flags.DEFINE_bool("show_accepted", False, "Mark accepted drafts: «like this».")
_MOST = flags.DEFINE_integer("max_new_tokens", 256, "Tokens to write at most.", 1)
_TEMPERATURE = flags.DEFINE_float("temperature", 0.0, "0 is greedy.")
_TOP_P = flags.DEFINE_float("top_p", 1.0, "Least mass of the words drawn from.")
_TOP_K = flags.DEFINE_integer("top_k", 0, "Words drawn from; 0: all.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the noise when sampling.", 0)
STREAM_STEPS = 8  # steps between two looks at the text


def main() -> None:
    sampling = SamplingConfig(_TEMPERATURE.value, _TOP_P.value, _TOP_K.value)
    config, params = checkpoint.load_params(_RUN.value)
    if config.model.kind != "decoder":
        raise ValueError(
            f"{_RUN.value} holds a {config.model.kind} model; decoding needs a decoder"
        )
    tokenizer = load_tokenizer(_TOKENIZER.value or f"relay:{config.model.num_numbers}")
    if tokenizer.vocab_size != config.model.num_words:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} words, the model "
            f"{config.model.num_words}; give the model's own with --tokenizer"
        )
    (draft,), _, index = drafting.from_flags(tokenizer.identity)
    prompts = read_prompts(tokenizer)
    tokens, length = decode.pad_prompts(prompts, config.model.num_words)
    state = decode.start(
        params,
        *(tokens, length, decode.request_keys(_SEED.value, len(tokens))),
        model=config.model,
        max_new_tokens=_MOST.value,
    )
    streams = sys.stdout.isatty() and len(prompts) == 1
    shown = ""
    while not bool(state.done.all()):
        state = decode.advance(
            params,
            state,
            index,
            model=config.model,
            draft=draft,
            sampling=sampling,
            eos_id=decode.NO_EOS if _IGNORE_EOS.value else tokenizer.eos_id,
            num_steps=STREAM_STEPS if streams else None,
        )
        if streams:
            text = show(state, 0, length[0], tokenizer)
            print(text[len(shown) :], end="", flush=True)
            shown = text
    for row in range(len(prompts)):
        print("" if streams else show(state, row, length[row], tokenizer))
    rate = decode.tokens_per_step(state, length)
    print(
        f"{int((np.asarray(state.length) - length).sum())} tokens in "
        f"{int(state.steps.sum())} steps (M = {rate:.2f})",
        file=sys.stderr,
    )


def read_prompts(tokenizer) -> list[list[int]]:
    """The prompts of all three flags."""
    texts = list(_PROMPT.value)
    if _PROMPT_FILE.value:
        file = epath.Path(_PROMPT_FILE.value)
        if not file.exists():
            raise ValueError(f"--prompt_file: {file} does not exist")
        texts += [line for line in file.read_text().splitlines() if line.strip()]
    ids = [list(command.whole_numbers("prompt_ids", x)) for x in _PROMPT_IDS.value]
    prompts = [tokenizer.encode(text) for text in texts] + ids
    if not prompts:
        raise ValueError("give --prompt, --prompt_file or --prompt_ids")
    return prompts


def show(state: decode.DecodeState, row: int, first: int, tokenizer) -> str:
    """The new text of a row; runs of accepted drafts in quotes if asked for."""
    new = slice(int(first), int(state.length[row]))
    tokens, drafted = jax.device_get((state.tokens[row, new], state.drafted[row, new]))

    def write(ids):
        return ",".join(map(str, ids)) if _PRINT_IDS.value else tokenizer.decode(ids)

    if not _SHOW.value:
        return write(tokens)
    cuts = np.flatnonzero(np.diff(drafted)) + 1
    spans = zip(np.split(tokens, cuts), np.split(drafted, cuts))
    return "".join(
        f"«{write(ids)}»" if marks.any() else write(ids) for ids, marks in spans
    )


if __name__ == "__main__":
    command.run(main)
