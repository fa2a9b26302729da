r"""Replays known texts against a drafter, without a model: tokens per step and its time.

    python -m experiments.replay --targets=FILE.npz --datastore=DIR --drafter=rest \
        --num_draft=64

prints one JSON line. M is the mean number of tokens per step; the drafter is the one
that decoding uses. With --make, the file of texts is written: prompts and what follows.

    python -m experiments.replay --make --targets=FILE.npz --tokenizer=code.model \
        --jsonl=HumanEval.jsonl.gz --text_key=canonical_solution --every=2 --offset=1
    python -m experiments.replay --make --targets=FILE.npz --tokenizer=code.model \
        --files='held_out/**/*.py' --prompt_tokens=32
    python -m experiments.replay --make --targets=FILE.npz --count=40 \
        --tokenizer=RUN/tokenizer.model --token_array=RUN/held_out.npy

With --fit, the prior of `--num_draft=auto` is fitted to the texts: how likely a drafted
node is by its source, match length, share and depth (`relay_jax/decoding/acceptance.py`).

    python -m experiments.replay --fit=relay_jax/decoding/acceptance.json \
        --targets=FILE.npz --datastore=DIR --fit_drafters=rest,prompt_lookup,rest_paper

Prompt and text of a JSON line are encoded together if this does not change the prompt's
tokens, which are what a model reads; otherwise each is encoded separately.
The file's format: `relay_jax/rest/replay.py`.
"""

import itertools
import json
from collections.abc import Iterator

import numpy as np
from absl import flags
from tqdm import tqdm

from experiments import command
from experiments import flags as shared
from relay_jax import files
from relay_jax.data import corpora
from relay_jax.rest import acceptance_fit, drafters, replay
from relay_jax.rest.replay import Target
from relay_jax.tokenizers import Tokenizer, load_tokenizer

shared.define_mesh()
shared.define_drafting(num_draft="64")  # no model, so no step to time
_TARGETS = flags.DEFINE_string("targets", None, "A .npz file of texts.", required=True)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Texts at once.", 1)
_TIMED = flags.DEFINE_integer("timed_calls", 500, "Number of calls that are timed.", 1)
_FIT = flags.DEFINE_string("fit", "", "Fit the prior of acceptance to this file.")
_FIT_DRAFTERS = flags.DEFINE_list(
    "fit_drafters", ["rest", "prompt_lookup", "rest_paper"], "Drafters of --fit."
)
_MAKE = flags.DEFINE_bool(
    "make", False, "Write --targets; the flags below are for this."
)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer",
    "",
    "A tokenizer's file or folder, or relay:64 (the task vocabulary, 64 numbers).",
)
_JSONL = flags.DEFINE_list("jsonl", [], "JSON-lines files (or .gz), a text a line.")
_PROMPT_KEY = flags.DEFINE_string("prompt_key", "prompt", "JSON field of the prompt.")
_TEXT_KEY = flags.DEFINE_string("text_key", "text", "JSON field of its continuation.")
_FILES = flags.DEFINE_list("files", [], "Files, folders or patterns, a text each.")
_TOKEN_ARRAY = flags.DEFINE_string("token_array", "", "A .npy file of documents.")
_PROMPT_TOKENS = flags.DEFINE_integer(
    "prompt_tokens", 32, "Tokens of a document that are the prompt.", 1
)
_EVERY = flags.DEFINE_integer("every", 1, "Take one of this many texts.", 1)
_OFFSET = flags.DEFINE_integer("offset", 0, "Index of the first text to take.", 0)
_COUNT = flags.DEFINE_integer("count", None, "Maximum number of texts.", 1)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an existing file.")


def main() -> None:
    if _MAKE.value:
        make_targets()
    elif _FIT.value:
        fit_acceptance()
    else:
        replay_targets()


def replay_targets() -> None:
    if "auto" in shared.FLAGS.num_draft:
        raise ValueError("--num_draft must be a number here: there is no model to time")
    drafts, store = shared.open_drafts()
    draft = shared.only(drafts)
    drafters.check(draft, store, has_logits=False)
    targets = replay.load_targets(_TARGETS.value)
    if store is not None:
        replay.check_targets(targets, store.vocab_size)
    index = shared.load_index(store)
    scores = replay.replay_targets(
        targets, index, draft, _BATCH_SIZE.value, progress=True
    )
    new, steps, nodes = np.sum(scores, axis=0)
    texts = replay.sample_texts(targets, _TIMED.value)
    seconds = replay.time_drafter(texts, index, draft)
    means = [score.new_tokens / score.steps for score in scores]
    line = {
        "drafter": draft.drafter,
        "num_draft": draft.num_draft,
        "M": round(float(new / steps), 4),
        "M_mean_of_texts": round(float(np.mean(means)), 4),
        "steps": int(steps),
        "tokens": int(new),
        "texts": len(scores),
        "nodes_per_step": round(float(nodes / steps), 2),
        "drafter_ms_median": round(float(np.median(seconds)) * 1e3, 4),
        "drafter_ms_p99": round(float(np.quantile(seconds, 0.99)) * 1e3, 4),
    }
    print(json.dumps(line | command.describe()))


def fit_acceptance() -> None:
    drafts, store = shared.open_drafts(names=_FIT_DRAFTERS.value)
    targets = replay.load_targets(_TARGETS.value)
    if store is not None:
        replay.check_targets(targets, store.vocab_size)
    index = shared.load_index(store)
    parts = [
        part
        for draft in tqdm(drafts, desc="drafters")
        for part in acceptance_fit.collect(targets, index, draft)
    ]
    fitted = acceptance_fit.fit(parts)
    setting = {"drafters": _FIT_DRAFTERS.value, "texts": len(targets)}
    files.write_json(_FIT.value, fitted | setting | command.describe())
    print(
        f"{_FIT.value}: {fitted['examples']:,} nodes, {fitted['accepted']:,} accepted"
    )


def make_targets() -> None:
    if not _TOKENIZER.value:
        raise ValueError("--make needs --tokenizer, which encodes the texts")
    replay.check_path(_TARGETS.value, _OVERWRITE.value)
    tokenizer = load_tokenizer(_TOKENIZER.value)
    chosen = itertools.islice(_texts(tokenizer), _OFFSET.value, None, _EVERY.value)
    targets, num_short = [], 0
    for target in chosen:
        if len(target.tokens) > target.prompt_length:
            targets.append(target)
        else:
            num_short += 1
        if len(targets) == _COUNT.value:
            break
    replay.save_targets(_TARGETS.value, targets, _OVERWRITE.value)
    new = sum(len(target.tokens) - target.prompt_length for target in targets)
    print(
        f"{_TARGETS.value}: {len(targets)} texts, {new:,} tokens after their prompts; "
        f"left out, as no longer than their prompts: {num_short}"
    )


def _texts(tokenizer: Tokenizer) -> Iterator[Target]:
    """All texts of the source in the flags."""
    sources = [bool(source.value) for source in (_JSONL, _FILES, _TOKEN_ARRAY)]
    if sum(sources) != 1:
        raise ValueError("give one of --jsonl, --files and --token_array")
    if _JSONL.value:
        paths = corpora.find_files(_JSONL.value)
        keys = _PROMPT_KEY.value, _TEXT_KEY.value
        for prompt, text in corpora.read_json_fields(paths, keys):
            yield _encode(prompt, text, tokenizer)
        return
    if _FILES.value:
        texts = corpora.read_files(corpora.find_files(_FILES.value))
        documents = map(tokenizer.encode, texts)
    else:
        documents = corpora.read_tokens(_TOKEN_ARRAY.value, tokenizer.eos_id)
    for document in documents:
        yield Target(np.array(document, np.int32), _PROMPT_TOKENS.value)


def _encode(prompt: str, text: str, tokenizer: Tokenizer) -> Target:
    prompt_ids, ids = tokenizer.encode(prompt), tokenizer.encode(prompt + text)
    if ids[: len(prompt_ids)] != prompt_ids:
        begin = len(tokenizer.encode(""))  # what a tokenizer puts before every text
        ids = [*prompt_ids, *tokenizer.encode(text)[begin:]]
    return Target(np.array(ids, np.int32), len(prompt_ids))


if __name__ == "__main__":
    command.run(main)
