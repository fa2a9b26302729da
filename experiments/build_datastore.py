r"""Builds a datastore for REST from a corpus.

    python -m experiments.build_datastore --datastore=DIR --tokenizer=code.model \
        --files='/usr/lib/python3*/**/*.py'
    python -m experiments.build_datastore --datastore=DIR --tokenizer=code.model \
        --jsonl=the_stack.jsonl --text_key=content
    python -m experiments.build_datastore --datastore=DIR --token_array=corpus.npy \
        --eos_id=2 --vocab_size=32000 --tokenizer_identity=sentencepiece-0123456789abcdef
    python -m experiments.build_datastore --datastore=DIR --token_array=RUN/train.npy \
        --tokenizer=RUN/tokenizer.model
    python -m experiments.build_datastore --datastore=DIR --tokenizer=vicuna-7b-v1.5 \
        --recipe=ultrachat --data_dir=ultrachat
    ./launch/beam.sh python -m experiments.build_datastore --datastore=DIR \
        --tokenizer=code.model --jsonl=the_stack --text_key=content --runner=DirectRunner \
        --beam_options='--direct_num_workers=8 --direct_running_mode=multi_processing'

The corpora of the paper, as published, are the recipes of `relay_jax/data/published_corpora.py`.
When interrupted, it leaves nothing that can be opened, or the store that was to be
replaced; the same command resumes with the shards that are sorted already. Memory:
about 24 bytes for each token of a shard (--shard_tokens), 44 if the vocabulary has more
than 65,536 tokens.

With --runner, the workers of Apache Beam do the work, and write the same files: each takes
a part of the corpus (a file of JSON lines or of a recipe, 256 of --files, 8,192 examples of
--tfds; a token array is one part), then a shard. All paths must be on a disk that
every worker can access; until the store is complete, the disk also has a second copy of
its tokens.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial

from absl import flags, logging
from tqdm import tqdm

from experiments import command
from relay_jax import files
from relay_jax.beam import find_workers
from relay_jax.data import corpora
from relay_jax.data.published_corpora import (
    PUBLISHED_CORPORA,
    find_corpus_files,
    read_corpus_file,
)
from relay_jax.rest.build import SHARD_TOKENS, build_datastore, extend_datastore
from relay_jax.rest.build_beam import build_datastore_beam
from relay_jax.rest.datastore import Datastore, open_datastore
from relay_jax.tokenizers import Tokenizer, load_tokenizer

_DATASTORE = flags.DEFINE_string(
    "datastore", None, "The directory of the new datastore."
)
_TOKENIZER = flags.DEFINE_string(
    "tokenizer",
    "",
    "A tokenizer's file or folder, or relay:64 (the task vocabulary, 64 numbers).",
)
_FILES = flags.DEFINE_list("files", [], "Files, folders or patterns: a document each.")
_JSONL = flags.DEFINE_list("jsonl", [], "JSON-lines files: a document a line.")
_TFDS = flags.DEFINE_string("tfds", "", "A TFDS dataset: a document an example.")
_SPLIT = flags.DEFINE_string("split", "train", "Split of the TFDS dataset.")
_RECIPE = flags.DEFINE_enum(
    "recipe", "", ["", *PUBLISHED_CORPORA], "A corpus of the paper."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    "",
    "The recipe's folder, as published, or that of TFDS datasets.",
)
_TEXT_KEY = flags.DEFINE_string("text_key", "text", "Field of the text.")
_TOKEN_ARRAY = flags.DEFINE_string("token_array", "", "A .npy file of token ids.")
_EOS_ID = flags.DEFINE_integer(
    "eos_id", None, "Token array: the token that ends a document."
)
_VOCAB_SIZE = flags.DEFINE_integer("vocab_size", None, "Token array: vocabulary size.")
_TOKENIZER_ID = flags.DEFINE_string(
    "tokenizer_identity",
    "",
    "Token array: the tokenizer that the ids are from. Without it, any model with the "
    "same vocabulary size can draft from them: its text is the same, but the drafts "
    "may be useless.",
)
_SHARD_TOKENS = flags.DEFINE_integer(
    "shard_tokens", SHARD_TOKENS, "Tokens of a shard, sorted at once."
)
_EVERY = flags.DEFINE_integer("every", 1, "Take one of this many documents.", 1)
_EXTEND = flags.DEFINE_bool(
    "extend", False, "Add the documents to the existing store, as further shards."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an existing store.")
_RUNNER = flags.DEFINE_string(
    "runner", "", "An Apache Beam runner, such as DirectRunner."
)
_BEAM_OPTIONS = flags.DEFINE_string(
    "beam_options",
    "",
    "Options of the runner, as on a command line: '--NAME=VALUE ...'.",
)
_RECORDS = flags.DEFINE_string(
    "records", "", "A file to append the measurements to, as a JSON line."
)
flags.mark_flag_as_required("datastore")
OPENINGS = 5


def main() -> None:
    sources = {
        "--files": _FILES.value,
        "--jsonl": _JSONL.value,
        "--tfds": _TFDS.value,
        "--recipe": _RECIPE.value,
        "--token_array": _TOKEN_ARRAY.value,
    }
    requested = [name for name, value in sources.items() if value]
    if len(requested) != 1:
        raise ValueError(
            f"give one of {', '.join(sources)}, got {' and '.join(requested) or 'none'}"
        )
    if _RUNNER.value:
        logging.set_verbosity(logging.ERROR)  # Beam logs a lot
    workers = find_workers(_RUNNER.value, _BEAM_OPTIONS.value)
    start, busy = time.monotonic(), time.process_time()
    parts, options = _read(requested[0], bool(workers))
    options |= {"shard_tokens": _SHARD_TOKENS.value, "overwrite": _OVERWRITE.value}
    if workers:
        if _EVERY.value > 1 or _EXTEND.value:
            raise ValueError("--every and --extend work without --runner")
        store = build_datastore_beam(parts, _DATASTORE.value, workers, **options)
    else:
        documents = itertools.chain.from_iterable(part() for part in parts)
        documents = itertools.islice(documents, 0, None, _EVERY.value)
        shown = tqdm(documents, unit=" documents", delay=0.5)
        if _EXTEND.value:
            store = _extend(shown, options)
        else:
            store = build_datastore(shown, _DATASTORE.value, **options)
    seconds, cpu_seconds = time.monotonic() - start, time.process_time() - busy
    # The CPU time of other processes is not known here.
    line = measure(store, seconds, None if workers else cpu_seconds)
    rate = line["tokens_per_cpu_second"]
    speed = f", {rate:,} tokens a CPU-second" if rate else ""
    print(
        f"{store.path}: {store.num_documents:,} documents, {store.num_tokens:,} tokens "
        f"in {len(store.shards)} shards, {line['bytes_per_token']} bytes a token; "
        f"{line['seconds']} s{speed}; opens in {line['opening_ms']} ms"
    )
    if _RECORDS.value:
        files.append_lines(_RECORDS.value, [line | command.describe()])


def _extend(documents: Iterable, options: dict) -> Datastore:
    """Adds documents to the existing store, which must have the same tokenizer.

    Raises:
      ValueError: the tokenizer, vocabulary size or end token is another.
    """
    store = open_datastore(_DATASTORE.value)
    for name in ("tokenizer", "vocab_size", "eos_id"):
        stored, expected = getattr(store, name), options[name]
        if stored != expected:
            raise ValueError(
                f"{store.path} has {name} {stored!r}, the documents {expected!r}; "
                "build a separate store for them"
            )
    return extend_datastore(store.path, documents, options["shard_tokens"])


def measure(store: Datastore, seconds: float, cpu_seconds: float | None) -> dict:
    """The time of building the store, its size on disk, and the time of opening it."""
    size = sum(file.stat().length for file in store.path.iterdir())
    openings = []
    for _ in range(OPENINGS):
        before = time.perf_counter()
        open_datastore(store.path)
        openings.append(time.perf_counter() - before)
    return {
        "documents": store.num_documents,
        "tokens": store.num_tokens,
        "shards": len(store.shards),
        "bytes_per_token": round(size / store.num_tokens, 3),
        "seconds": round(seconds, 2),
        "cpu_seconds": cpu_seconds and round(cpu_seconds, 2),
        "tokens_per_cpu_second": cpu_seconds and round(store.num_tokens / cpu_seconds),
        "opening_ms": round(statistics.median(openings) * 1e3, 2),
    }


def _read(source: str, is_spread: bool) -> tuple[list[Callable[[], Iterable]], dict]:
    """Functions that read parts of the corpus as token ids of documents, and the
    options of `build_datastore` that describe the vocabulary."""
    vocabulary = {"eos_id": _EOS_ID.value, "vocab_size": _VOCAB_SIZE.value}
    if not _TOKENIZER.value and source != "--token_array":
        raise ValueError(f"{source} needs --tokenizer, which encodes the documents")
    if source == "--token_array" and _TOKENIZER.value:
        tokenizer = load_tokenizer(_TOKENIZER.value)
        _check_vocabulary(vocabulary, tokenizer)
        whole = partial(corpora.read_tokens, _TOKEN_ARRAY.value, tokenizer.eos_id)
        return [whole], _vocabulary_options(tokenizer)
    if source == "--token_array":
        if None in vocabulary.values():
            raise ValueError(
                "--token_array needs --tokenizer, or --eos_id and --vocab_size"
            )
        whole = partial(corpora.read_tokens, _TOKEN_ARRAY.value, vocabulary["eos_id"])
        return [whole], vocabulary | {"tokenizer": _TOKENIZER_ID.value}
    parts = _texts(source, is_spread)
    tokenizer = load_tokenizer(_TOKENIZER.value)
    if is_spread:
        name = _TOKENIZER.value, tokenizer.identity
        encoded = [partial(corpora.encode_part, part, *name) for part in parts]
    else:
        texts = itertools.chain.from_iterable(part() for part in parts)
        encoded = [partial(corpora.encode, texts, tokenizer)]
    return encoded, _vocabulary_options(tokenizer)


def _texts(source: str, is_spread: bool) -> list[Callable[[], Iterable[str]]]:
    if source == "--files":
        files = corpora.group_files(corpora.find_files(_FILES.value))
        return [partial(corpora.read_files, group) for group in files]
    key, folder = _TEXT_KEY.value, _DATA_DIR.value
    if source == "--jsonl":
        files = corpora.find_files(_JSONL.value)
        return [partial(corpora.read_json_lines, [file], key) for file in files]
    if source == "--recipe":
        if not folder:
            raise ValueError("--recipe needs --data_dir, the folder as it is published")
        recipe = PUBLISHED_CORPORA[_RECIPE.value]
        files = find_corpus_files(recipe, folder)
        return [partial(read_corpus_file, recipe, file) for file in files]
    name, split = _TFDS.value, _SPLIT.value
    splits = corpora.split_tfds(name, split, folder) if is_spread else [split]
    return [partial(corpora.read_tfds, name, part, key, folder) for part in splits]


def _check_vocabulary(vocabulary: dict, tokenizer: Tokenizer) -> None:
    for name, value in vocabulary.items():
        expected = getattr(tokenizer, name)
        if value not in (None, expected):
            raise ValueError(
                f"--{name}={value}, but the --tokenizer has {expected}; leave --{name} "
                "out"
            )


def _vocabulary_options(tokenizer: Tokenizer) -> dict:
    return {
        "tokenizer": tokenizer.identity,
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
    }


if __name__ == "__main__":
    command.run(main)
