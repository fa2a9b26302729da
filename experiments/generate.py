r"""Continues prompts with a trained decoder, with drafts or without.

    python -m experiments.generate --run=DIR/ar --drafter=prompt_lookup \
        --prompt='[ARI] (2+3)*4=' --show_accepted
    python -m experiments.generate --run=DIR/ar --datastore=STORE --seed=1 \
        --prompt_file=prompts.txt --temperature=0.8 --top_p=0.95
    python -m experiments.generate --run=DIR/ar --drafter=none \
        --prompt_ids=2,43,11 --print_ids --ignore_eos

The text is the same with every drafter. In a terminal it is shown while it is
generated. Every step chooses the size of its draft tree (--num_draft=auto): where drafts
do not pay, none are used.
"""

import sys

import jax
from absl import flags

from experiments import command, prompt_flags
from experiments import flags as shared
from relay_jax.decoding import decode
from relay_jax.rest.output import GenerationOutput
from relay_jax.rest.request import Request, run

shared.define_model()
shared.define_max_new_tokens(256)
shared.define_sampling()
shared.define_drafting()
prompt_flags.define()
_PRINT_IDS = flags.DEFINE_bool("print_ids", False, "Print token ids instead of text.")
_IGNORE_EOS = flags.DEFINE_bool(
    "ignore_eos", False, "Continue after the end of a text."
)
_SHOW = flags.DEFINE_bool("show_accepted", False, "Mark accepted drafts: «like this».")
STREAM_STEPS = 8  # forward passes between two looks at the text


def main() -> None:
    folder = shared.open_model(needs_text=not _PRINT_IDS.value)
    sampling = shared.sampling(folder.rules)
    drafts, store = shared.open_drafts(folder.tokenizer)
    draft = shared.only(drafts)
    prompts = prompt_flags.read(folder.tokenizer)
    decode.pad_prompts(prompts, folder.config.model.vocab_size)  # checks them
    index = shared.load_index(store)
    lm = shared.load_model(folder, index)
    request = Request(
        params=lm.params,
        model=lm.config,
        tokenizer=lm.tokenizer,
        prompts=prompts,
        max_new_tokens=shared.FLAGS.max_new_tokens,
        eos_ids=decode.NO_EOS if _IGNORE_EOS.value else lm.eos_ids,
        draft=draft,
        index=index,
        sampling=sampling,
        seed=shared.FLAGS.seed,
        cache_file=shared.cache_file(),
    )
    is_watched = sys.stdout.isatty() and jax.process_count() == 1
    streams = is_watched and len(prompts) == 1
    shown, output = "", None
    for output in run(request, STREAM_STEPS if streams else 0):
        if streams:
            (text,) = show(output)
            print(text[len(shown) :], end="", flush=True)
            shown = text
    assert output is not None
    print("" if streams else "\n".join(show(output)))
    print(
        f"{output.num_tokens} tokens in {sum(output.num_steps)} steps "
        f"(M = {output.tokens_per_step:.2f}); {shared.describe_sizes(output.draft_sizes)}; "
        f"{output.finish_reasons.count('length')} of {len(prompts)} texts cut at "
        f"--max_new_tokens={request.max_new_tokens}",
        file=sys.stderr,
    )


def show(output: GenerationOutput) -> list[str]:
    """The new text for each prompt, or its ids; accepted drafts in quotes if asked."""
    if _SHOW.value:
        return output.marked_texts(as_ids=_PRINT_IDS.value)
    if _PRINT_IDS.value:
        return [",".join(map(str, ids)) for ids in output.token_ids]
    return output.texts


if __name__ == "__main__":
    command.run(main, is_shared=True)
