"""The published corpora of REST's datastores (REST, section 4.1).

    the_stack    code    bigcode/the-stack-dedup, Python: Parquet, one source file per row
    sharegpt     chat    Aeala/ShareGPT_Vicuna_unfiltered: one JSON list of conversations
                         (of its several files the one that REST reads)
    ultrachat    chat    stingning/ultrachat: JSON lines, one conversation each

A document is one source file, or one turn of a conversation.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from etils import epath

from relay_jax.data.corpora import find_files, read_json_objects


class PublishedCorpus(NamedTuple):
    """Which files of a downloaded corpus to read, and where their texts are."""

    files: tuple[str, ...]  # names or patterns, below the corpus's folder
    texts: str  # path of fields, e.g. `turns.*.value`; `*` is every item of a list


def _stack(count: int) -> tuple[str, ...]:
    return tuple(f"data/python/data-{i:05d}-of-00144.parquet" for i in range(count))


PUBLISHED_CORPORA = {
    "the_stack_small": PublishedCorpus(_stack(1), "content"),
    "the_stack_large": PublishedCorpus(_stack(30), "content"),
    "sharegpt": PublishedCorpus(
        ("ShareGPT_V4.3_unfiltered_cleaned_split.json",), "conversations.*.value"
    ),
    "ultrachat": PublishedCorpus(("train_*.jsonl",), "data.*"),
}


def find_corpus_files(
    corpus: PublishedCorpus, folder: epath.PathLike
) -> list[epath.Path]:
    """The files of a published corpus. Raises ValueError if one is missing."""
    return find_files(f"{folder}/{name}" for name in corpus.files)


def read_corpus_file(corpus: PublishedCorpus, file: epath.Path) -> Iterator[str]:
    """The documents of one file.

    Raises:
      ValueError: the file is damaged or has another layout, or pyarrow is not installed.
    """
    fields = corpus.texts.split(".")
    for number, record in enumerate(_records(file, fields[0]), 1):
        try:
            yield from _texts(record, fields)
        except (KeyError, TypeError):
            raise ValueError(
                f"{file}, record {number} has no text at {corpus.texts}"
            ) from None


def _records(file: epath.Path, field: str) -> Iterator[Any]:
    if file.suffix == ".parquet":
        yield from _parquet(file, field)
    elif file.suffix == ".jsonl":
        yield from (record for _, record in read_json_objects(file))
    else:
        yield from _json_list(file)


def _json_list(file: epath.Path) -> list[Any]:
    try:
        records = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{file}, line {error.lineno}: not JSON ({error.msg}); is the file complete?"
        ) from None
    is_list = isinstance(records, list)
    if not is_list:
        raise ValueError(
            f"{file} must be a JSON list of records, got {type(records).__name__}"
        )
    return records


def _parquet(file: epath.Path, field: str) -> Iterator[Any]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ValueError(
            f"{file} is a Parquet file, which needs pyarrow: "
            "pip install 'relay_jax[parquet]'"
        ) from None
    with pyarrow.parquet.ParquetFile(file) as table:
        if field not in table.schema_arrow.names:
            raise ValueError(
                f"{file} has no column {field!r}, only "
                f"{', '.join(table.schema_arrow.names)}"
            )
        for batch in table.iter_batches(columns=[field]):
            yield from batch.to_pylist()


def _texts(value: Any, path: list[str]) -> Iterator[str]:
    """All strings at a path: "x" and "y" for `{"a": [{"b": "x"}, {"b": "y"}]}` at a.*.b."""
    if not path:
        if not isinstance(value, str):
            raise TypeError
        yield value
    elif path[0] == "*":
        for item in value:
            yield from _texts(item, path[1:])
    else:
        yield from _texts(value[path[0]], path[1:])
