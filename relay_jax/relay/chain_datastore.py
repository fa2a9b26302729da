"""The two papers combined: RELAY's chains as a REST datastore for the AR model.

    DIR/rest_store/           a datastore of the generated chains, one document each
    DIR/rest_records.jsonl    plain decoding against drafts; written last

The decoded problems are test problems, which are never in the datastore.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from relay_jax import files
from relay_jax.base import Host, Integer
from relay_jax.config import ChainsConfig, DraftConfig, RelayConfig
from relay_jax.data.alignment import flatten, sizes
from relay_jax.data.chain_files import read_chains
from relay_jax.data.sources import is_test
from relay_jax.evaluation import accuracy
from relay_jax.rest import benchmark
from relay_jax.rest.build import build_datastore
from relay_jax.rest.datastore import Datastore
from relay_jax.rest.drafters import AUTOTUNE
from relay_jax.rest.index import load_index
from relay_jax.tasks import make_task
from relay_jax.training import checkpoint
from relay_jax.vocabulary import TaskTokenizer

RUN = "ar_relay"  # the run that decodes
COUNT = 32  # problems of each task
BATCH_SIZE = 8
MAX_TOKENS = 256  # of a chain
SMALL_TREE = 8  # nodes of the small draft tree
REPEATS = 9  # for stable medians: decoding takes only a fraction of a second


def compare_speed(
    config: RelayConfig,
    workdir: epath.PathLike,
    cache_file: epath.PathLike | None = None,
) -> list[dict[str, Any]]:
    """Speed of `ar_relay` with and without drafts from the chains of its training data.

    Each task's longest problems are decoded greedily: without drafts, with a small tree,
    and with a size that each step chooses. Existing records are returned as they are.
    """
    path = epath.Path(workdir)
    finished = path / "rest_records.jsonl"
    if finished.exists():
        return list(files.read_lines(finished))
    run = config.runs.get(RUN)
    buckets = run.data.buckets.values() if run else ()
    names = dict.fromkeys(b.path for b in buckets if b.kind == "chains")
    chains = {name: config.chains[name] for name in names}
    if next(_documents(chains, path), None) is None:  # there are no chains
        return []
    model, params = checkpoint.load_params(path / RUN)
    store = build_store(chains, path, TaskTokenizer(model.model.num_numbers))
    lines = []
    for stage in chains.values():
        task = make_task(stage.task, stage.options)
        length = max(map(int, stage.counts))
        problems = accuracy.test_problems(task, [length], COUNT, model.seed, final=True)
        room = task.num_rounds(length) * task.round_size(length) + 2
        rows = zip(problems.problem, sizes(problems.problem))
        work = benchmark.Workload(
            params=params,
            model=model.model,
            prompts=[row[:size] for row, size in rows],
            max_new_tokens=min(room, MAX_TOKENS),
            eos_id=store.eos_id,
            batch_size=BATCH_SIZE,
            index=load_index(store),
        )
        drafts = [DraftConfig(num_draft=n) for n in (SMALL_TREE, AUTOTUNE)]
        common = {"model": RUN, "prompts": stage.task, "length": length}
        common |= {"batch_size": BATCH_SIZE, "store_tokens": store.num_tokens}
        common |= {"seed": model.seed}
        compared = benchmark.compare(work, drafts, REPEATS, cache_file)
        lines += [common | line for line in compared]
    files.write_lines(finished, lines)
    return lines


def build_store(
    chains: Mapping[str, ChainsConfig],
    workdir: epath.PathLike,
    tokenizer: TaskTokenizer,
) -> Datastore:
    """Builds a datastore of all chains in the stages' directories below `workdir`."""
    path = epath.Path(workdir)
    return build_datastore(
        _documents(chains, path),
        path / "rest_store",
        tokenizer=tokenizer.identity,
        vocab_size=tokenizer.vocab_size,
        eos_id=tokenizer.eos_id,
        overwrite=True,
    )


def _documents(
    chains: Mapping[str, ChainsConfig], path: epath.Path
) -> Iterator[Integer[Host, "_"]]:
    for name, stage in chains.items():
        task = make_task(stage.task, stage.options)
        for length in map(int, stage.counts):
            source = read_chains(path / name, task, (length, length), stage.seed)
            tokens, _ = flatten(source.examples, task)
            tokens = tokens[~is_test(source.examples.problem)]
            for row, size in zip(tokens, sizes(tokens)):
                yield row[:size]
