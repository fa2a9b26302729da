"""The corpora of REST's datastores (section 4.1), as they are published.

    the_stack    code    bigcode/the-stack-dedup, Python: Parquet, a file of code a row
    sharegpt     chat    Aeala/ShareGPT_Vicuna_unfiltered: one JSON list of conversations
                         (of its several files the one that REST reads)
    ultrachat    chat    stingning/ultrachat: JSON lines, a conversation each

A document is one file of code, or one thing that was said in a conversation.
"""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from etils import epath

from relay_jax.data.corpora import find_files, read_json_objects


class Recipe(NamedTuple):
    """Which files of a published folder, and where their texts are."""

    files: tuple[str, ...]  # names or patterns, below the folder
    texts: str  # path of fields; `*` stands for every item of a list


def _stack(count: int) -> tuple[str, ...]:
    return tuple(f"data/python/data-{i:05d}-of-00144.parquet" for i in range(count))


RECIPES = {
    "the_stack_small": Recipe(_stack(1), "content"),
    "the_stack_large": Recipe(_stack(30), "content"),
    "sharegpt": Recipe(
        ("ShareGPT_V4.3_unfiltered_cleaned_split.json",), "conversations.*.value"
    ),
    "ultrachat": Recipe(("train_*.jsonl",), "data.*"),
}


def read_recipe(recipe: Recipe, folder: epath.PathLike) -> Iterator[str]:
    """The documents of a published corpus.

    Raises:
      ValueError: a file is missing or of another layout, or Parquet cannot be read here.
    """
    for file in find_recipe(recipe, folder):
        yield from read_recipe_file(recipe, file)


def find_recipe(recipe: Recipe, folder: epath.PathLike) -> list[epath.Path]:
    """The files of a published corpus. Raises ValueError where one is missing."""
    return find_files(f"{folder}/{name}" for name in recipe.files)


def read_recipe_file(recipe: Recipe, file: epath.Path) -> Iterator[str]:
    """The documents of one of the files; see `read_recipe`."""
    fields = recipe.texts.split(".")
    for number, record in enumerate(_records(file, fields[0]), 1):
        try:
            yield from _texts(record, fields)
        except (KeyError, TypeError):
            raise ValueError(
                f"{file}, record {number} has no text at {recipe.texts}"
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
            f"{file}, line {error.lineno}: not JSON ({error.msg}); is it whole?"
        ) from None
    is_list = isinstance(records, list)
    if not is_list:
        raise ValueError(f"{file} must be a list of records, but is no list")
    return records


def _parquet(file: epath.Path, field: str) -> Iterator[Any]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ValueError(
            f"{file} is Parquet, which pyarrow reads: pip install 'relay_jax[parquet]'"
        ) from None
    with pyarrow.parquet.ParquetFile(file) as table:
        if field not in table.schema_arrow.names:
            raise ValueError(
                f"{file} has no column {field!r} but {table.schema_arrow.names}"
            )
        for batch in table.iter_batches(columns=[field]):
            yield from batch.to_pylist()


def _texts(value: Any, path: list[str]) -> Iterator[str]:
    """`{"a": [{"b": "x"}]}` at a.*.b -> "x"."""
    if not path:
        if not isinstance(value, str):
            raise TypeError
        yield value
    elif path[0] == "*":
        for item in value:
            yield from _texts(item, path[1:])
    else:
        yield from _texts(value[path[0]], path[1:])
