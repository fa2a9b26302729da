r"""Times building a datastore of text on one core and on all, in one run.

    python -m experiments.benchmarks.datastore_build --tokenizer=SmolLM2-135M-Instruct \
        --files='/usr/lib/python3*/**/*.py' --records=FILE.jsonl

Each build is a process of its own on the cores that it may use; builds on one core and
on all alternate, and the fastest of each counts. Their files must be the same to the
byte. Run it on an idle machine.
"""

import concurrent.futures
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from absl import flags
from etils import epath

from experiments import command
from experiments.benchmarks.build_times import compare
from relay_jax import datastores, files
from relay_jax.data import corpora
from relay_jax.tokenizers import load_tokenizer

_TOKENIZER = flags.DEFINE_string(
    "tokenizer", None, "A tokenizer's file or folder.", required=True
)
_FILES = flags.DEFINE_list(
    "files", None, "Files, folders or patterns: a document each.", required=True
)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Builds on one core, and on all.", 1)
_RECORDS = flags.DEFINE_string("records", "", "A file to append the record to.")


def main() -> None:
    description = command.describe()
    names = [str(file) for file in corpora.find_files(_FILES.value)]
    load_tokenizer(_TOKENIZER.value)
    every_core = sorted(os.sched_getaffinity(0))
    if len(every_core) < 2:
        raise ValueError("this process may use one core; a comparison needs two")
    with tempfile.TemporaryDirectory() as folder:
        lines = [
            [
                build_on(cores, names, _TOKENIZER.value, f"{folder}/{repeat}-{number}")
                for number, cores in enumerate((every_core[:1], every_core))
            ]
            for repeat in range(_REPEATS.value)
        ]
    record = compare(lines)
    print(
        f"{record['tokens']:,} tokens: tokenizing {record['tokenize_speed_up']} times as "
        f"fast on {record['cores']} cores as on one, building {record['speed_up']} times; "
        f"{record['seconds']} s, {record['peak_mb']} MB"
    )
    if _RECORDS.value:
        files.append_lines(_RECORDS.value, [record | description])


def build_on(
    cores: Sequence[int], names: Sequence[str], tokenizer: str, path: str
) -> dict[str, Any]:
    """`build` in a new process that may use these cores only."""
    context = multiprocessing.get_context("spawn")
    limits = {"initializer": os.sched_setaffinity, "initargs": (0, cores)}
    with concurrent.futures.ProcessPoolExecutor(1, context, **limits) as process:
        return process.submit(build, names, tokenizer, path).result()


def build(names: Sequence[str], tokenizer: str, path: str) -> dict[str, Any]:
    """Times tokenizing the files, then building their datastore from the texts."""
    loaded = load_tokenizer(tokenizer)
    start = time.monotonic()
    texts = corpora.read_files(map(epath.Path, names))
    for _ in corpora.encode_all(texts, loaded):
        pass
    tokenized = time.monotonic()
    store = datastores.build_datastore(path, tokenizer=loaded, files=names)
    built = time.monotonic()
    return {
        "cores": corpora.count_cores(),
        "tokens": store.num_tokens,
        "documents": store.num_documents,
        "files": [checksum for shard in store.checksums for checksum in shard],
        "tokenize_seconds": tokenized - start,
        "seconds": built - tokenized,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    command.run(main)
