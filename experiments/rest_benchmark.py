"""Times plain decoding against drafters: same model, same prompts, in one run.

    python -m experiments.rest_benchmark --run=DIR/ar --task=arithmetic --length=8 \
        --datastore=STORE --drafters=prompt_lookup,rest_paper,rest --num_draft=8,16,auto \
        --workdir=OUT
    python -m experiments.rest_benchmark --run=DIR --token_array=DIR/held_out.npy \
        --prompt_tokens=64 --datastore=STORE --drafters=rest --workdir=OUT

Every drafter decodes all prompts once unmeasured (compilation), then `--repeats` times
in turns with plain decoding, so that a slow minute of the machine hits all alike. Texts
must be the same token for token, or the script fails. By how much M of one drafter is above
another's is told with an interval (`relay_jax/rest/bootstrap.py`). Appends to
OUT/records.jsonl, and draws OUT/speed.png from it.
"""

import sys

from absl import flags
from etils import epath

from experiments import command, drafting, prompting
from relay_jax import files
from relay_jax.config import MAX_SEED, TrainConfig
from relay_jax.data.alignment import sizes
from relay_jax.data.buckets import check_lengths
from relay_jax.evaluation import accuracy, figures
from relay_jax.evaluation.report import make_speed_table
from relay_jax.rest import benchmark, bootstrap
from relay_jax.rest.index import add_recent
from relay_jax.tasks import make_task

_WORKDIR = flags.DEFINE_string("workdir", None, "Where records go.", required=True)
_TASK = flags.DEFINE_string("task", "", "Solve its problems; or give prompts.")
_LENGTH = flags.DEFINE_integer("length", None, "Length of the task's problems.", 1)
_COUNT = flags.DEFINE_integer("count", 64, "How many prompts, at most.", 1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 1, "Texts at once.", 1)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", 256, "Tokens to write at most.", 1, 2**30
)
_DRAFTERS = flags.DEFINE_list("drafters", ["prompt_lookup"], "Drafters to compare.")
_LIVE = flags.DEFINE_integer(
    "recent_tokens",
    0,
    "Every drafter's finished texts are drafted from too, beside the datastore: so many "
    "tokens of them, the last ones.",
    0,
)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Measured rounds.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the problems.", 0, MAX_SEED)


def main() -> None:
    config, tokenizer = prompting.open_run(needs_words=False)
    drafts, store = drafting.from_flags(tokenizer, _DRAFTERS.value)
    if _LIVE.value and not store:
        raise ValueError("--live_tokens needs --datastore, beside which texts are kept")
    if _TASK.value:
        prompts = problems(config)
    else:
        prompts = prompting.read_prompts(tokenizer, _COUNT.value)
    longest = max(map(len, prompts))
    prompting.check_length(config.model, longest, _MAX_NEW_TOKENS.value)
    path = epath.Path(_WORKDIR.value)
    command.make_folder(path)
    index = drafting.load_index(store)
    if store and _LIVE.value:
        index = add_recent(index, store.eos_id, _LIVE.value)
    work = benchmark.Workload(
        params=prompting.load_params(config, index),
        model=config.model,
        prompts=prompts,
        max_new_tokens=_MAX_NEW_TOKENS.value,
        eos_id=prompting.end_ids(tokenizer),
        batch_size=_BATCH_SIZE.value,
        index=index,
    )
    lines = benchmark.compare(work, drafts, _REPEATS.value, drafting.cache_file())
    lines = bootstrap.add_gains(lines)
    if not files.is_main_process():
        return
    for line in lines:
        if line["autotuned"] and not line["num_draft"]:
            told = "drafts would not pay here; it decodes plainly"
            print(f"{line['drafter']}: {told}", file=sys.stderr)
    about = {
        "model": config.name,
        "prompts": _TASK.value or prompting.source(),
        "length": _LENGTH.value or max(map(len, prompts)),
        "batch_size": _BATCH_SIZE.value,
        "store_tokens": store.num_tokens if store else 0,
        "recent_tokens": _LIVE.value,
    }
    file = path / "records.jsonl"
    files.append_lines(file, [line | about | command.describe() for line in lines])
    figures.speed_by_drafter(list(files.read_lines(file)), path / "speed.png")
    print(make_speed_table(lines))
    if any(line["gain_over"] for line in lines):
        print(bootstrap.make_gain_table(lines))
    print(f"records: {file}\nfigure: {path / 'speed.png'}")


def problems(config: TrainConfig) -> list:
    """Test problems of --task."""
    if _LENGTH.value is None:
        raise ValueError("--task needs --length")
    name = _TASK.value
    task = make_task(name, config.evaluation.options.get(name, {}))
    check_lengths(task, (_LENGTH.value, _LENGTH.value), config.model, "test")
    examples = accuracy.test_problems(
        task, [_LENGTH.value], _COUNT.value, _SEED.value, final=True
    )
    rows = zip(examples.problem, sizes(examples.problem))
    return [row[:size] for row, size in rows]


if __name__ == "__main__":
    command.run(main, is_shared=True)
