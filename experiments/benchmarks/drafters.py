r"""Times plain decoding against drafters: same model, same prompts, in one run.

    python -m experiments.benchmarks.drafters --run=DIR/ar --task=arithmetic \
        --length=8 --datastore=STORE --drafters=prompt_lookup,rest_paper,rest \
        --num_draft=8,16,auto --workdir=OUT
    python -m experiments.benchmarks.drafters --run=DIR --token_array=DIR/held_out.npy \
        --prompt_tokens=64 --datastore=STORE --drafters=rest --workdir=OUT

With several sizes and auto, the record of auto says how it compares with the best of them
in hindsight (`of_best_fixed`), and `speed_up_of_batches` with plain decoding, text by text;
--random_prompts=50 takes prompts of random tokens, on which no draft can pay.

Every drafter decodes all prompts once unmeasured (compilation), then --repeats times in
turns with plain decoding, so that a slow minute of the machine affects all alike. The
texts must be the same token for token, or the script fails. Differences in M between
drafters are given with an interval (`relay_jax/rest/bootstrap.py`). Appends to
OUT/records.jsonl, and draws OUT/speed.png from it.
"""

import numpy as np
from absl import flags
from etils import epath

from experiments import command, prompt_flags
from experiments import flags as shared
from relay_jax import files
from relay_jax.config import TrainConfig
from relay_jax.data.alignment import sizes
from relay_jax.data.buckets import check_lengths
from relay_jax.evaluation import accuracy, figures
from relay_jax.evaluation.report import make_speed_table
from relay_jax.rest import benchmark, bootstrap
from relay_jax.rest.index import add_recent
from relay_jax.rest.request import warn_of_length
from relay_jax.tasks import make_task

SLOW = 0.95  # of plain decoding's speed: a batch that drafts have slowed down

shared.define_model()
shared.define_drafting(drafter=False)
prompt_flags.define()
shared.define_seed("of the task's problems")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The directory of records.", required=True
)
_TASK = flags.DEFINE_string("task", "", "Solve problems of this task; or give prompts.")
_LENGTH = flags.DEFINE_integer("length", None, "Length of the task's problems.", 1)
_COUNT = flags.DEFINE_integer("count", 64, "Maximum number of prompts.", 1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 1, "Texts at once.", 1)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", 256, "Maximum number of new tokens.", 1, 2**30
)
_DRAFTERS = flags.DEFINE_list("drafters", ["prompt_lookup"], "Drafters to compare.")
_RANDOM_PROMPTS = flags.DEFINE_integer(
    "random_prompts", 0, "Take this many prompts of --prompt_tokens random tokens.", 0
)
_LIVE = flags.DEFINE_integer(
    "recent_tokens",
    0,
    "Draft from the texts that each drafter has finished too, beside the datastore: "
    "from this many of their last tokens.",
    0,
)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Measured rounds.", 1)


def main() -> None:
    folder = shared.open_model(needs_text=False)
    config = folder.config
    drafts, store = shared.open_drafts(folder.tokenizer, _DRAFTERS.value)
    if _LIVE.value and not store:
        raise ValueError(
            "--live_tokens needs --datastore, to which the texts' tokens are added"
        )
    if _TASK.value:
        prompts = problems(config)
    elif _RANDOM_PROMPTS.value:
        prompts = random_prompts(config.model.vocab_size)
    else:
        prompts = prompt_flags.read(folder.tokenizer, _COUNT.value)
    warn_of_length(config.model, max(map(len, prompts)), _MAX_NEW_TOKENS.value)
    path = epath.Path(_WORKDIR.value)
    command.make_folder(path)
    index = shared.load_index(store)
    if store and _LIVE.value:
        index = add_recent(index, store.eos_id, _LIVE.value)
    lm = shared.load_model(folder, index)
    workload = benchmark.Workload(
        params=lm.params,
        model=lm.config,
        prompts=prompts,
        max_new_tokens=_MAX_NEW_TOKENS.value,
        eos_id=lm.eos_ids,
        batch_size=_BATCH_SIZE.value,
        index=index,
    )
    lines = benchmark.compare(workload, drafts, _REPEATS.value, shared.cache_file())
    lines = bootstrap.add_gains(lines)
    if not files.is_main_process():
        return
    is_random = _RANDOM_PROMPTS.value > 0
    source = "random tokens" if is_random else prompt_flags.source()
    setting = {
        "model": config.name,
        "prompts": _TASK.value or source,
        "length": _LENGTH.value or max(map(len, prompts)),
        "batch_size": _BATCH_SIZE.value,
        "store_tokens": store.num_tokens if store else 0,
        "recent_tokens": _LIVE.value,
    }
    file = path / "records.jsonl"
    files.append_lines(file, [line | setting | command.describe() for line in lines])
    figures.speed_by_drafter(list(files.read_lines(file)), path / "speed.png")
    print(make_speed_table(lines))
    for line in lines:
        if line["autotuned"]:
            print(describe_auto(line))
    if any(line["gain_over"] for line in lines):
        print(bootstrap.make_gain_table(lines))
    print(f"records: {file}\nfigure: {path / 'speed.png'}")


def describe_auto(line: dict) -> str:
    """How a size that every step chooses compares with fixed ones and plain decoding."""
    slow = sum(ratio < SLOW for ratio in line["speed_up_of_batches"])
    return (
        f"{line['drafter']}, auto: {line['of_best_fixed']:.2f} of the best fixed size, "
        f"{line['best_fixed']} nodes; {slow} of {len(line['speed_up_of_batches'])} "
        f"batches slower than {SLOW} of plain decoding; "
        f"{shared.describe_sizes(line['draft_sizes'])}"
    )


def random_prompts(vocab_size: int) -> list:
    """--random_prompts prompts of tokens drawn with --seed."""
    shape = _RANDOM_PROMPTS.value, shared.FLAGS.prompt_tokens
    rng = np.random.default_rng(shared.FLAGS.seed)
    return list(rng.integers(vocab_size, size=shape).astype(np.int32))


def problems(config: TrainConfig) -> list:
    """Test problems of --task."""
    if _LENGTH.value is None:
        raise ValueError("--task needs --length")
    name = _TASK.value
    task = make_task(name, config.evaluation.options.get(name, {}))
    check_lengths(task, (_LENGTH.value, _LENGTH.value), config.model, "test")
    examples = accuracy.test_problems(
        task, [_LENGTH.value], _COUNT.value, shared.FLAGS.seed, final=True
    )
    rows = zip(examples.problem, sizes(examples.problem))
    return [row[:size] for row, size in rows]


if __name__ == "__main__":
    command.run(main, is_shared=True)
