"""Makes the texts that `rest_replay` plays: prompts, and what a model is to write.

    python -m experiments.make_targets --targets=FILE.npz --tokenizer=code.model \
        --jsonl=HumanEval.jsonl.gz --prompt_key=prompt --text_key=canonical_solution \
        --every=2 --offset=1
    python -m experiments.make_targets --targets=FILE.npz --tokenizer=code.model \
        --files='held_out/**/*.py' --prompt_tokens=32
    python -m experiments.make_targets --targets=FILE.npz --tokenizer=RUN/tokenizer.model \
        --token_array=RUN/held_out.npy --prompt_tokens=64 --count=40

Prompt and text of a JSON line are encoded together where the prompt's own tokens stay as
they are, else each by itself: the prompt's are what a model is given. What a targets file
holds: relay_jax/rest/replay.py.
"""

import itertools
from collections.abc import Iterator

import numpy as np
from absl import flags

from experiments import command
from relay_jax.data import corpora
from relay_jax.rest.replay import Target, check_path, save_targets
from relay_jax.tokenizers import Tokenizer, load_tokenizer

_TARGETS = flags.DEFINE_string("targets", None, "The .npz file to be.")
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", None, "A sentencepiece file, or relay:64 (task words, 64 numbers)."
)
_JSONL = flags.DEFINE_list("jsonl", [], "JSON-lines files (or .gz): a text a line.")
_PROMPT_KEY = flags.DEFINE_string("prompt_key", "prompt", "Field of the prompt.")
_TEXT_KEY = flags.DEFINE_string("text_key", "text", "Field of what follows it.")
_FILES = flags.DEFINE_list("files", [], "Files, folders or patterns: a text each.")
_TOKEN_ARRAY = flags.DEFINE_string("token_array", "", "A .npy file of documents.")
_CUT = flags.DEFINE_integer(
    "prompt_tokens", 32, "Tokens of a file or document that are the prompt.", 1
)
_EVERY = flags.DEFINE_integer("every", 1, "Take one text in so many.", 1)
_OFFSET = flags.DEFINE_integer("offset", 0, "The first text to take.", 0)
_COUNT = flags.DEFINE_integer("count", None, "Texts to take at most.", 1)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an existing file.")
flags.mark_flags_as_required(["targets", "tokenizer"])


def main() -> None:
    check_path(_TARGETS.value, _OVERWRITE.value)
    tokenizer = load_tokenizer(_TOKENIZER.value)
    chosen = itertools.islice(_texts(tokenizer), _OFFSET.value, None, _EVERY.value)
    kept = (target for target in chosen if len(target.tokens) > target.prompt_length)
    targets = list(itertools.islice(kept, _COUNT.value))
    save_targets(_TARGETS.value, targets, _OVERWRITE.value)
    new = sum(len(target.tokens) - target.prompt_length for target in targets)
    print(f"{_TARGETS.value}: {len(targets)} texts, {new:,} tokens after their prompts")


def _texts(tokenizer: Tokenizer) -> Iterator[Target]:
    """All texts of the source that is given."""
    given = [bool(x.value) for x in (_JSONL, _FILES, _TOKEN_ARRAY)]
    if sum(given) != 1:
        raise ValueError("give one of --jsonl, --files and --token_array")
    if _JSONL.value:
        files = corpora.find_files(_JSONL.value)
        keys = _PROMPT_KEY.value, _TEXT_KEY.value
        for pair in corpora.read_json_fields(files, keys):
            yield _continue(*pair, tokenizer)
        return
    if _FILES.value:
        texts = corpora.read_files(corpora.find_files(_FILES.value))
        documents = map(tokenizer.encode, texts)
    else:
        documents = corpora.read_tokens(_TOKEN_ARRAY.value, tokenizer.eos_id)
    for document in documents:
        yield Target(np.array(document, np.int32), _CUT.value)


def _continue(prompt: str, text: str, tokenizer: Tokenizer) -> Target:
    given, ids = tokenizer.encode(prompt), tokenizer.encode(prompt + text)
    if ids[: len(given)] != given:
        begin = len(tokenizer.encode(""))  # what a tokenizer puts before every text
        ids = [*given, *tokenizer.encode(text)[begin:]]
    return Target(np.array(ids, np.int32), len(given))


if __name__ == "__main__":
    command.run(main)
