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

from relay_jax import text_files
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


def _json_list(file: epath.Path) -> Iterator[Any]:
    text = text_files.read_text(file)
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = (
            f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        )
        reason = getattr(error, "msg", error)
        raise ValueError(
            f"{file}{where}: not JSON ({reason}); is the file complete?"
        ) from None
    is_list = isinstance(records, list)
    if not is_list:
        raise ValueError(
            f"{file} must be a JSON list of records, got {type(records).__name__}"
        )
    with text_files.report_repairs(file) as repairs:
        yield from _clean_records(records, text, repairs)


def _clean_records(
    records: list[Any], text: str, repairs: text_files.Repairs
) -> Iterator[Any]:
    """The records of a list, `clean`, with the lines of the text in which they begin."""
    if not text_files.HALF_IN_JSON.search(text):
        yield from records
        return
    decoder, position = json.JSONDecoder(), text.index("[") + 1
    line = text.count("\n", 0, position) + 1
    for record in records:
        begin = position
        while text[position] in " \t\r\n,":
            position += 1
        line += text.count("\n", begin, position)
        yield text_files.clean(record, repairs, f"in line {line}")
        begin, (_, position) = position, decoder.raw_decode(text, position)
        line += text.count("\n", begin, position)


def _parquet(file: epath.Path, field: str) -> Iterator[Any]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ValueError(
            f"{file} is a Parquet file, which needs pyarrow: "
            "pip install 'relay_jax[parquet]'"
        ) from None
    try:
        with (
            pyarrow.parquet.ParquetFile(file) as table,
            text_files.report_repairs(file) as repairs,
        ):
            if field not in table.schema_arrow.names:
                raise ValueError(
                    f"{file} has no column {field!r}, only "
                    f"{', '.join(table.schema_arrow.names)}"
                )
            first = 1
            for batch in table.iter_batches(columns=[field]):
                yield from _rows(batch, field, first, repairs)
                first += len(batch)
    except pyarrow.ArrowException as error:
        raise ValueError(f"{file} cannot be read ({error}); is it complete?") from error


def _rows(batch: Any, field: str, first: int, repairs: list[str]) -> list[Any]:
    """The records of a batch, the first of which has the number `first`."""
    import pyarrow

    try:
        return batch.to_pylist()
    except UnicodeDecodeError:  # Parquet does not check that strings are UTF-8
        values = batch.column(field).cast(pyarrow.large_binary()).to_pylist()
    rows = []
    for number, value in enumerate(values, first):
        where = f"in record {number}"
        is_text = isinstance(value, bytes)
        text = text_files.decode(value, repairs, where) if is_text else value
        rows.append({field: text})
    return rows


def _texts(value: Any, path: list[str]) -> Iterator[str]:
    """All strings at a path: "x" and "y" for `{"a": [{"b": "x"}, {"b": "y"}]}` at a.*.b."""
    if not path:
        if not isinstance(value, str):
            raise TypeError
        yield value
    elif path[0] == "*":
        if not isinstance(value, list):
            raise TypeError
        for item in value:
            yield from _texts(item, path[1:])
    else:
        yield from _texts(value[path[0]], path[1:])
