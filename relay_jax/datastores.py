"""Datastores for the models of `relay_jax.load`: built from text, opened by their path.

store = relay_jax.build_datastore("store", files=["src/**/*.py"],
                                  tokenizer=lm.tokenizer)
lm.generate("def fib(n):", datastore=store)
"""

import functools
import itertools
import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from etils import epath
from jax.sharding import Mesh

from relay_jax.base import Host, Integer
from relay_jax.data import corpora
from relay_jax.rest import build
from relay_jax.rest.datastore import Datastore, open_datastore
from relay_jax.rest.index import (
    HostIndex,
    Index,
    IndexWithRecent,
    MeshIndex,
    load_index,
)
from relay_jax.tokenizers import Tokenizer

INDEXES = (Index, MeshIndex, HostIndex, IndexWithRecent)


def build_datastore(
    path: epath.PathLike,
    *,
    tokenizer: Tokenizer,
    files: str | Iterable[str] = (),
    texts: str | Iterable[str] = (),
    token_ids: Iterable[Any] = (),
    shard_tokens: int = build.SHARD_TOKENS,
    overwrite: bool = False,
) -> Datastore:
    """Builds a datastore of documents and opens it.

    `experiments/build_datastore.py` has more sources, resumes an interrupted build and
    can work in parallel.

    Args:
      path: the directory to write; it may contain a datastore only if `overwrite`.
      tokenizer: the tokenizer of the model that will decode with the datastore.
      files: files, folders and patterns such as `src/**/*.py`; each file is a document.
      texts: further documents.
      token_ids: further documents, as token ids.
      shard_tokens: the number of tokens that are sorted together; memory grows with it.

    Raises:
      ValueError: the path is in use, a pattern matches no file, there is no document,
        or a token id is outside the vocabulary.
    """
    tokenizer.encode("")  # raises where there is none
    texts = [texts] if isinstance(texts, str) else texts
    files = [files] if isinstance(files, str) else list(files)
    found = corpora.find_files(map(str, files))

    def documents() -> Iterable[Integer[Host, "_"]]:
        every_text = itertools.chain(corpora.read_files(found), texts)
        for encoded in corpora.encode_all(every_text, tokenizer):
            yield np.asarray(encoded, np.int64)
        for ids in token_ids:
            yield np.asarray(ids)

    return build.build_datastore(
        documents(),
        path,
        tokenizer=tokenizer.identity,
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        shard_tokens=shard_tokens,
        overwrite=overwrite,
    )


def open_index(datastore: Any, tokenizer: Tokenizer, mesh: Mesh | None = None) -> Any:
    """The index of a datastore, on the device; the most recent one stays there.

    Args:
      datastore: a directory, a `Datastore`, an index, or None.
      tokenizer: the model's, with which the datastore must have been built.
      mesh: the devices over which the datastore is sharded; by default it is on the
        first device.

    Raises:
      ValueError: the directory is not a datastore, is damaged, or was built with
        another tokenizer.
      TypeError: `datastore` is of another type.
    """
    if datastore is None or isinstance(datastore, INDEXES):
        return datastore
    if not isinstance(datastore, (str, os.PathLike, Datastore)):
        raise TypeError(
            "datastore must be a directory, an opened datastore or its index, got "
            f"{datastore!r}"
        )
    path = datastore.path if isinstance(datastore, Datastore) else datastore
    store = open_datastore(path, tokenizer=tokenizer)
    return _load_index(str(path), store.checksums, mesh)


@functools.lru_cache(maxsize=1)
def _load_index(path: str, checksums: Any, mesh: Mesh | None) -> Any:
    """Loads a datastore; the cache's key includes its checksums, as it may change."""
    del checksums
    return load_index(open_datastore(path), mesh)
