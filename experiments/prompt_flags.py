"""The flags of prompts: texts, token ids, files of them, and documents to continue."""

import functools
import itertools
from collections.abc import Iterator

from absl import flags, logging
from etils import epath

from experiments import command
from relay_jax import text_files
from relay_jax.data import corpora
from relay_jax.tokenizers import Tokenizer

FLAGS = flags.FLAGS


@functools.cache
def define() -> None:
    """The flags of the prompts."""
    flags.DEFINE_multi_string("prompt", [], "A text to continue; repeatable.")
    flags.DEFINE_multi_string("prompt_ids", [], "A prompt as token ids: 1,2,3.")
    flags.DEFINE_string("prompt_file", "", "A file with a prompt on each line.")
    flags.DEFINE_list("prompts_jsonl", [], "JSON-lines files, a prompt on each line.")
    flags.DEFINE_string("prompt_key", "prompt", "JSON field of the prompt.")
    flags.DEFINE_list("files", [], "Files, folders or patterns to continue.")
    flags.DEFINE_string("token_array", "", "A .npy file of documents to continue.")
    flags.DEFINE_integer(
        "piece_tokens",
        0,
        "Cut documents into pieces of this many tokens first; 0: do not cut.",
    )
    flags.DEFINE_integer("skip_prompts", 0, "Number of prompts to skip.")
    flags.DEFINE_integer(
        "prompt_tokens", 64, "Tokens of a document that are the prompt.", 1
    )


def read(tokenizer: Tokenizer, count: int = 0) -> list[list[int]]:
    """The prompts of all flags as token ids: at most `count` of them; 0: all.

    Raises:
      ValueError: a file is missing or has another format; there is no prompt.
    """
    stop = FLAGS.skip_prompts + count if count else None
    prompts = list(itertools.islice(_prompts(tokenizer), FLAGS.skip_prompts, stop))
    if not prompts:
        raise ValueError(
            "no prompt: give --prompt, --prompt_ids, --prompt_file, --prompts_jsonl, or "
            "--files or --token_array with documents longer than --prompt_tokens "
            f"({FLAGS.prompt_tokens})"
        )
    return prompts


def source() -> str:
    """Where the prompts come from, for records."""
    files = [*FLAGS.prompts_jsonl, *FLAGS.files]
    return ",".join(filter(None, [FLAGS.prompt_file, *files, FLAGS.token_array]))


def _prompts(tokenizer: Tokenizer) -> Iterator[list[int]]:
    yield from map(tokenizer.encode, FLAGS.prompt)
    for ids in FLAGS.prompt_ids:
        yield list(command.whole_numbers("prompt_ids", ids))
    if FLAGS.prompt_file:
        file = epath.Path(FLAGS.prompt_file)
        if not file.exists():
            raise ValueError(f"--prompt_file: {file} does not exist")
        for line in text_files.read_lines(file):
            if line.strip():
                yield tokenizer.encode(line)
    if FLAGS.prompts_jsonl:
        files = corpora.find_files(FLAGS.prompts_jsonl)
        yield from map(
            tokenizer.encode, corpora.read_json_lines(files, FLAGS.prompt_key)
        )
    documents = corpora.read_files(corpora.find_files(FLAGS.files))
    yield from _beginnings(map(tokenizer.encode, documents))
    if FLAGS.token_array:
        yield from _beginnings(corpora.read_tokens(FLAGS.token_array, tokenizer.eos_id))


def _beginnings(documents) -> Iterator[list[int]]:
    """The first tokens of every document, or piece of one, that continues after them."""
    num_short = 0
    try:
        for document in documents:
            size = FLAGS.piece_tokens or len(document) or 1
            for first in range(0, len(document), size):
                piece = document[first : first + size]
                if len(piece) > FLAGS.prompt_tokens + 1:
                    yield list(map(int, piece[: FLAGS.prompt_tokens]))
                else:
                    num_short += 1
    finally:
        if num_short:
            logging.warning(
                "%d documents or pieces are left out: they end within a token of the %d of "
                "their prompts (--prompt_tokens)",
                *(num_short, FLAGS.prompt_tokens),
            )
