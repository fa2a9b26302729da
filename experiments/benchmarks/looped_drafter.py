r"""Times an autoregressive model whose chains a looped model drafts, by problem length.

    python -m experiments.benchmarks.looped_drafter --looped=DIR/looped_aligned \
        --run=DIR/ar_relay --task=arithmetic --lengths=4,8 --workdir=OUT

Compared are plain decoding, drafts from the text's own past (`prompt_lookup`), from a
datastore if there is one (`rest`), and from the looped model's chains (`looped`), in
turns; the texts must be the same. Appends to OUT/records.jsonl and draws OUT/speed.png
of the longest problems.
"""

from absl import flags
from etils import epath
from tqdm import tqdm

from experiments import command
from relay_jax import files
from relay_jax.config import MAX_SEED, DraftConfig
from relay_jax.data.buckets import check_lengths
from relay_jax.evaluation import figures
from relay_jax.evaluation.report import make_speed_table
from relay_jax.relay import looped_drafter
from relay_jax.rest.datastore import open_datastore
from relay_jax.rest.index import load_index
from relay_jax.tasks import make_task
from relay_jax.training import checkpoint
from relay_jax.vocabulary import TaskTokenizer

_LOOPED = flags.DEFINE_string(
    "looped", None, "The looped model's run directory.", required=True
)
_RUN = flags.DEFINE_string("run", None, "The decoder's run directory.", required=True)
_TASK = flags.DEFINE_string(
    "task", None, "The task whose problems are solved.", required=True
)
_LENGTHS = flags.DEFINE_string(
    "lengths", None, "Lengths of problems: 4,8.", required=True
)
_COUNT = flags.DEFINE_integer("count", 32, "Number of problems of each length.", 1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 8, "Texts at once.", 1)
_NUM_DRAFT = flags.DEFINE_integer("num_draft", 64, "Nodes of the draft tree.", 1)
_DEPTH = flags.DEFINE_integer("draft_depth", 48, "Depth of the draft tree.", 1)
_STORE = flags.DEFINE_string("datastore", "", "A datastore of chains.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Measured rounds.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the problems.", 0, MAX_SEED)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The directory of records.", required=True
)


def main() -> None:
    looped = checkpoint.load_params(_LOOPED.value)
    decoder = checkpoint.load_params(_RUN.value)
    looped_drafter.check_pair(looped[0], decoder[0], (_LOOPED.value, _RUN.value))
    lengths, name = command.whole_numbers("lengths", _LENGTHS.value), _TASK.value
    task = make_task(name, decoder[0].evaluation.options.get(name, {}))
    for length in lengths:
        check_lengths(task, (length, length), decoder[0].model, "test")
    store = None
    if _STORE.value:
        tokenizer = TaskTokenizer(decoder[0].model.num_numbers)
        store = open_datastore(_STORE.value, tokenizer=tokenizer)
    path = epath.Path(_WORKDIR.value)
    command.make_folder(path)
    call = command.describe()
    size = {"num_draft": _NUM_DRAFT.value}
    drafts = [DraftConfig("prompt_lookup", **size)]
    drafts += [DraftConfig("rest", **size)] * bool(store)
    drafts += [DraftConfig("looped", depth=_DEPTH.value, **size)]
    index, found = load_index(store) if store else None, []
    for length in tqdm(lengths, desc="lengths"):
        found = looped_drafter.compare(
            *(looped, decoder, task, length, drafts),
            count=_COUNT.value,
            batch_size=_BATCH_SIZE.value,
            index=index,
            repeats=_REPEATS.value,
            seed=_SEED.value,
        )
        setting = {"model": decoder[0].name, "looped": looped[0].name, "prompts": name}
        setting |= {"store_tokens": store.num_tokens if store else 0}
        found = [line | setting | call for line in found]
        files.append_lines(path / "records.jsonl", found)
        last = found[-1]
        print(f"\n{name}, length {length}: the looped model is right in", end=" ")
        print(f"{last['same_as_truth']:.0%} of the chains, and takes", end=" ")
        print(f"{last['looped_share']:.0%} of the time (speed-up in all", end=" ")
        print(f"{last['overall_speed_up']:.2f})\n{make_speed_table(found)}")
    figures.speed_by_drafter(found, path / "speed.png")
    print(f"records: {path / 'records.jsonl'}\nfigure: {path / 'speed.png'}")


if __name__ == "__main__":
    command.run(main)
