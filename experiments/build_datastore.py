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
Interrupted, it leaves nothing that opens, or the store that was to be replaced; the same
command goes on with the shards that were sorted. Memory: about 20 bytes for each token of
a shard (--shard_tokens), 36 where it holds more than 65,536 different words.

With --runner, the workers of Apache Beam do the work, and write the same files: each takes
a part of the corpus (a file of JSON lines or of a recipe, 256 of --files, 8,192 examples of
--tfds; a token array is one part), then a shard. All paths must be of a disk that every
worker sees; until the store is whole, its tokens lie beside it once more.
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

_DATASTORE = flags.DEFINE_string("datastore", None, "The directory to be.")
_TOKENIZER = flags.DEFINE_string(
    "tokenizer",
    "",
    "A tokenizer's file or folder, or relay:64 (task words, 64 numbers).",
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
    "The recipe's folder, as published, or where TFDS datasets are kept.",
)
_TEXT_KEY = flags.DEFINE_string("text_key", "text", "Field of the text.")
_TOKEN_ARRAY = flags.DEFINE_string("token_array", "", "A .npy file of token ids.")
_EOS_ID = flags.DEFINE_integer("eos_id", None, "Token array: ends a document.")
_VOCAB_SIZE = flags.DEFINE_integer("vocab_size", None, "Token array: number of words.")
_TOKENIZER_ID = flags.DEFINE_string(
    "tokenizer_identity",
    "",
    "Token array: whose ids these are. Untold, any model with as many words drafts with "
    "them as if they were its own: never another text, but perhaps no help.",
)
_SHARD_TOKENS = flags.DEFINE_integer("shard_tokens", SHARD_TOKENS, "Sorted at once.")
_EVERY = flags.DEFINE_integer("every", 1, "Take one document in so many.", 1)
_EXTEND = flags.DEFINE_bool(
    "extend", False, "Add the documents to the store that is there, as further shards."
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace an existing store.")
_RUNNER = flags.DEFINE_string("runner", "", "Of Apache Beam, e.g. DirectRunner.")
_BEAM_OPTIONS = flags.DEFINE_string(
    "beam_options", "", "Of the runner, as on a command line: '--NAME=VALUE ...'."
)
_RECORDS = flags.DEFINE_string(
    "records", "", "A file to which what was measured is added, as a JSON line."
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
    given = [name for name, value in sources.items() if value]
    if len(given) != 1:
        raise ValueError(
            f"give one of {', '.join(sources)}, got {' and '.join(given) or 'none'}"
        )
    if _RUNNER.value:
        logging.set_verbosity(logging.ERROR)  # Beam speaks of much
    workers = find_workers(_RUNNER.value, _BEAM_OPTIONS.value)
    start, busy = time.monotonic(), time.process_time()
    parts, options = _read(given[0], bool(workers))
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
    # What other processes spent is not known here.
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
    """Adds to a store, whose words must be those of the documents."""
    store = open_datastore(_DATASTORE.value)
    for name in ("tokenizer", "vocab_size", "eos_id"):
        held, given = getattr(store, name), options[name]
        if held != given:
            raise ValueError(
                f"{store.path} has {name} {held!r}, the documents {given!r}; build a "
                "store of its own"
            )
    return extend_datastore(store.path, documents, options["shard_tokens"])


def measure(store: Datastore, seconds: float, cpu_seconds: float | None) -> dict:
    """What building the store took, what it takes on disk, and how fast it opens."""
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
    """Parts of the corpus, which give token ids of documents, and whose ids they are."""
    told = {"eos_id": _EOS_ID.value, "vocab_size": _VOCAB_SIZE.value}
    if not _TOKENIZER.value and source != "--token_array":
        raise ValueError(f"{source} needs --tokenizer, whose words the store will hold")
    if source == "--token_array" and _TOKENIZER.value:
        tokenizer = load_tokenizer(_TOKENIZER.value)
        _check_told(told, tokenizer)
        whole = partial(corpora.read_tokens, _TOKEN_ARRAY.value, tokenizer.eos_id)
        return [whole], _words(tokenizer)
    if source == "--token_array":
        if None in told.values():
            raise ValueError(
                "--token_array needs --tokenizer, or --eos_id and --vocab_size"
            )
        whole = partial(corpora.read_tokens, _TOKEN_ARRAY.value, told["eos_id"])
        return [whole], told | {"tokenizer": _TOKENIZER_ID.value}
    parts = _texts(source, is_spread)
    tokenizer = load_tokenizer(_TOKENIZER.value)
    if is_spread:
        name = _TOKENIZER.value, tokenizer.identity
        return [partial(corpora.encode_part, p, *name) for p in parts], _words(
            tokenizer
        )
    texts = itertools.chain.from_iterable(part() for part in parts)
    return [partial(corpora.encode, texts, tokenizer)], _words(tokenizer)


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


def _check_told(told: dict, tokenizer: Tokenizer) -> None:
    for name, value in told.items():
        own = getattr(tokenizer, name)
        if value not in (None, own):
            raise ValueError(
                f"--{name}={value}, but the --tokenizer has {own}; leave --{name} out"
            )


def _words(tokenizer: Tokenizer) -> dict:
    return {
        "tokenizer": tokenizer.identity,
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
    }


if __name__ == "__main__":
    command.run(main)
