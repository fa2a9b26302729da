"""The flags of every script that decodes: which run, with which words, from what."""

from collections.abc import Iterator
from typing import Any

from absl import flags
from etils import epath

from experiments import command
from relay_jax.config import TrainConfig
from relay_jax.data import corpus
from relay_jax.tokens import Tokenizer, load_run_tokenizer, load_tokenizer
from relay_jax.training import checkpoint

_RUN = flags.DEFINE_string("run", None, "The decoder's run directory.", required=True)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer", "", "A sentencepiece file; default: what the run was trained with."
)
_PROMPT = flags.DEFINE_multi_string("prompt", [], "A text to go on with; repeatable.")
_PROMPT_IDS = flags.DEFINE_multi_string("prompt_ids", [], "A prompt as ids: 1,2,3.")
_PROMPT_FILE = flags.DEFINE_string("prompt_file", "", "A file with a prompt a line.")
_JSONL = flags.DEFINE_list("prompts_jsonl", [], "JSON-lines files: a prompt a line.")
_KEY = flags.DEFINE_string("prompt_key", "prompt", "Field of the prompt.")
_FILES = flags.DEFINE_list("files", [], "Files, folders or patterns to go on with.")
_TOKEN_ARRAY = flags.DEFINE_string(
    "token_array", "", "A .npy file of documents, each to be gone on with."
)
_CUT = flags.DEFINE_integer(
    "prompt_tokens", 64, "Tokens of a file or document that are the prompt.", 1
)


def open_run() -> tuple[TrainConfig, Any, Tokenizer]:
    """Config, parameters and tokenizer of --run.

    Raises:
      ValueError: it holds no decoder, or the tokenizer is another model's.
    """
    config, params = checkpoint.load_params(_RUN.value)
    if config.model.kind != "decoder":
        raise ValueError(
            f"{_RUN.value} holds a {config.model.kind} model; decoding needs a decoder"
        )
    if _TOKENIZER.value:
        tokenizer = load_tokenizer(_TOKENIZER.value)
    else:
        tokenizer = load_run_tokenizer(_RUN.value, config.model.num_numbers)
    if tokenizer.vocab_size != config.model.num_words:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} words, the model "
            f"{config.model.num_words}; give the model's own with --tokenizer"
        )
    return config, params, tokenizer


def read_prompts(tokenizer: Tokenizer, most: int = 0) -> list[list[int]]:
    """The prompts of all flags; at most so many if `most` is given.

    Raises:
      ValueError: a file is missing or holds something else; no prompt is given.
    """
    prompts = []
    for prompt in _prompts(tokenizer):
        if most and len(prompts) == most:
            break
        prompts.append(prompt)
    if not prompts:
        raise ValueError(
            "no prompt: give --prompt, --prompt_ids, --prompt_file, --prompts_jsonl, or "
            "--files or --token_array with documents longer than --prompt_tokens "
            f"({_CUT.value})"
        )
    return prompts


def source() -> str:
    """Where the prompts come from, for records."""
    files = [*_JSONL.value, *_FILES.value]
    return ",".join(filter(None, [_PROMPT_FILE.value, *files, _TOKEN_ARRAY.value]))


def _prompts(tokenizer: Tokenizer) -> Iterator[list[int]]:
    yield from map(tokenizer.encode, _PROMPT.value)
    for ids in _PROMPT_IDS.value:
        yield list(command.whole_numbers("prompt_ids", ids))
    if _PROMPT_FILE.value:
        file = epath.Path(_PROMPT_FILE.value)
        if not file.exists():
            raise ValueError(f"--prompt_file: {file} does not exist")
        for line in file.read_text().splitlines():
            if line.strip():
                yield tokenizer.encode(line)
    if _JSONL.value:
        files = corpus.find_files(_JSONL.value)
        yield from map(tokenizer.encode, corpus.read_json_lines(files, _KEY.value))
    documents = map(
        tokenizer.encode, corpus.read_files(corpus.find_files(_FILES.value))
    )
    yield from _cut(documents)
    if _TOKEN_ARRAY.value:
        yield from _cut(corpus.read_tokens(_TOKEN_ARRAY.value, tokenizer.eos_id))


def _cut(documents) -> Iterator[list[int]]:
    """The first tokens of every document that goes on after them."""
    for document in documents:
        if len(document) > _CUT.value + 1:
            yield list(map(int, document[: _CUT.value]))
