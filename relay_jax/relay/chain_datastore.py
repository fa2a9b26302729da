"""The two papers meet: chains that the looped model wrote draft what the AR model says.

DIR/rest_store/           a datastore of the written chains, a document each
DIR/rest_records.jsonl    plain decoding against drafts; written last

The problems that are decoded are test problems, which are never in the datastore.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from relay_jax import files
from relay_jax.base import Host, Integer
from relay_jax.config import ChainsConfig, DraftConfig, RelayConfig
from relay_jax.data import loader
from relay_jax.data.alignment import flatten, sizes
from relay_jax.data.chain_files import read_chains
from relay_jax.data.sources import is_test
from relay_jax.evaluation import accuracy
from relay_jax.rest import autotune, benchmark
from relay_jax.rest.build import build_datastore
from relay_jax.rest.datastore import Datastore
from relay_jax.rest.index import load_index
from relay_jax.training import checkpoint
from relay_jax.vocabulary import TaskTokenizer

RUN = "ar_relay"  # who decodes
COUNT = 32  # problems of each task
BATCH_SIZE = 8
MAX_TOKENS = 256  # of a chain
SMALL_TREE = 8
REPEATS = 9  # decoding takes a fraction of a second: many, so that medians hold


def compare_speed(
    config: RelayConfig,
    workdir: epath.PathLike,
    cache_file: epath.PathLike | None = None,
) -> list[dict[str, Any]]:
    """Speed of `ar_relay` with and without drafts from the chains it learnt from.

    Each task's longest problems, greedily: plain, a small tree, and the size that the
    first problems ask for. Lines that are there already are only read.
    """
    path = epath.Path(workdir)
    done = path / "rest_records.jsonl"
    if done.exists():
        return list(files.read_lines(done))
    run = config.runs.get(RUN)
    buckets = run.data.buckets.values() if run else ()
    names = dict.fromkeys(b.path for b in buckets if b.kind == "chains")
    chains = {name: config.chains[name] for name in names}
    if next(_documents(chains, path), None) is None:  # none are learnt, or were kept
        return []
    model, params = checkpoint.load_params(path / RUN)
    store = build_store(chains, path, TaskTokenizer(model.model.num_numbers))
    lines = []
    for stage in chains.values():
        task = loader.make_task(stage.task, stage.options)
        length = max(map(int, stage.counts))
        problems = accuracy.test_problems(task, [length], COUNT, model.seed, final=True)
        room = task.num_rounds(length) * task.round_size(length) + 2
        rows = zip(problems.problem, sizes(problems.problem))
        work = benchmark.Work(
            params=params,
            model=model.model,
            prompts=[row[:size] for row, size in rows],
            max_new_tokens=min(room, MAX_TOKENS),
            eos_id=store.eos_id,
            batch_size=BATCH_SIZE,
            index=load_index(store),
        )
        drafts = [DraftConfig(num_draft=n) for n in (SMALL_TREE, autotune.AUTOTUNE)]
        about = {"model": RUN, "prompts": stage.task, "length": length}
        about |= {"batch_size": BATCH_SIZE, "store_tokens": store.num_tokens}
        about |= {"seed": model.seed}
        lines += [
            about | line
            for line in benchmark.compare(work, drafts, REPEATS, cache_file)
        ]
    files.write_lines(done, lines)
    return lines


def build_store(
    chains: Mapping[str, ChainsConfig], workdir: epath.PathLike, words: TaskTokenizer
) -> Datastore:
    """A datastore of all chains that lie below `workdir`."""
    path = epath.Path(workdir)
    return build_datastore(
        _documents(chains, path),
        path / "rest_store",
        tokenizer=words.identity,
        vocab_size=words.vocab_size,
        eos_id=words.eos_id,
        overwrite=True,
    )


def _documents(
    chains: Mapping[str, ChainsConfig], path: epath.Path
) -> Iterator[Integer[Host, "_"]]:
    for name, stage in chains.items():
        task = loader.make_task(stage.task, stage.options)
        for length in map(int, stage.counts):
            held = read_chains(path / name, task, (length, length), stage.seed)
            tokens, _ = flatten(held.examples, task)
            kept = np.flatnonzero(~is_test(held.examples.problem))
            for row, size in zip(tokens[kept], sizes(tokens[kept])):
                yield row[:size]
