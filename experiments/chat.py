r"""Talks with a model in a terminal, with drafts or without.

    python -m experiments.chat --run=SmolLM2-135M-Instruct --drafter=prompt_lookup
    python -m experiments.chat --run=vicuna-7b-v1.5 --template=vicuna \
        --datastore=STORE --temperature=0.7 --top_p=0.8

Answers are shown while they are generated, and after each one its decoding speed. `/new`
begins a new conversation, Ctrl-C ends an answer; Ctrl-D or `/quit` ends the program.
--drafter=none decodes plainly. The conversation has the format of the model's own
chat template; without one, its texts are joined (--template=plain).
"""

from absl import flags

from experiments import command, template_flag, terminal
from experiments import flags as shared
from relay_jax.chat_template import conversation
from relay_jax.rest.output import GenerationOutput
from relay_jax.rest.request import Request, run

shared.define_model()
shared.define_max_new_tokens(1024)
shared.define_sampling()
shared.define_drafting()
_SYSTEM = flags.DEFINE_string("system", "", "The system message; default: none.")
STREAM_STEPS = 4  # forward passes between two looks at the text


def main() -> None:
    folder = shared.open_model()
    sampling = shared.sampling(folder.rules)
    choice = template_flag.choose_template(folder, "plain")
    template = template_flag.open_template(folder, choice, _SYSTEM.value)
    drafts, store = shared.open_drafts(folder.tokenizer)
    index = shared.load_index(store)
    lm = shared.load_model(folder, index)
    limit = lm.config.context_length
    request = Request(
        params=lm.params,
        model=lm.config,
        tokenizer=lm.tokenizer,
        prompts=[],
        max_new_tokens=shared.FLAGS.max_new_tokens,
        eos_ids=lm.eos_ids,
        draft=shared.only(drafts),
        index=index,
        sampling=sampling,
        max_length=limit,
        cache_file=shared.cache_file(),
    )
    questions, answers = [], []
    while (question := terminal.read_line()) not in (None, "/quit"):
        if question == "/new":
            questions, answers = [], []
            continue
        messages = conversation([*questions, question], answers, _SYSTEM.value)
        ids = template.encode(messages, lm.tokenizer)
        if limit and len(ids) >= limit:
            print(
                f"with this question the conversation has {len(ids)} tokens, but the "
                f"model was made for {limit}; ask a shorter one, or begin a new "
                "conversation with /new"
            )
            continue
        seed = shared.FLAGS.seed + len(answers)
        answer = _answer(request._replace(prompts=[ids], seed=seed))
        questions.append(question)
        answers.append(answer.texts[0] if answer else "")
        used = len(ids) + (answer.num_tokens if answer else 0)
        if limit and used >= limit:
            print(
                f"the {limit} tokens that the model was made for are used up; use /new"
            )


def _answer(request: Request) -> GenerationOutput | None:
    """Prints an answer while it is generated, then its speed."""
    answer, shown = None, ""
    try:
        for answer in run(request, STREAM_STEPS):
            print(answer.texts[0][len(shown) :], end="", flush=True)
            shown = answer.texts[0]
    except KeyboardInterrupt:
        print(" [ended]", end="")
    print(f"\n{_describe(answer)}")
    return answer


def _describe(answer: GenerationOutput | None) -> str:
    if answer is None:
        return "[0 tokens]"
    is_cut = answer.finish_reasons[0] == "length"
    return (
        f"[{answer.num_tokens} tokens, {answer.tokens_per_second:.1f} per second, "
        f"M = {answer.tokens_per_step:.2f}]" + is_cut * " (cut off)"
    )


if __name__ == "__main__":
    command.run(main)
