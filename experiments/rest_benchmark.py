"""Times plain decoding against drafters: same model, same prompts, in one run.

    python -m experiments.rest_benchmark --run=DIR/ar --task=arithmetic --length=8 \
        --datastore=STORE --drafters=context,rest_paper,rest --num_draft=16 \
        --workdir=OUT

Every drafter decodes all prompts once unmeasured (compilation), then `--repeats` times
in turns with plain decoding, so that a slow minute of the machine hits all alike. Texts
must be the same token for token, or the script fails. Writes OUT/records.jsonl.
"""

import json
import time

import jax
import numpy as np
from absl import flags
from etils import epath

from experiments import command, drafting
from relay_jax import records
from relay_jax.config import DraftConfig
from relay_jax.data import pipeline
from relay_jax.data.align import sizes
from relay_jax.evaluation import accuracy
from relay_jax.rest import decode
from relay_jax.rest.replay import Target, time_drafter
from relay_jax.tokens import EOS, TaskTokenizer
from relay_jax.training import checkpoint

_RUN = flags.DEFINE_string("run", None, "The decoder's run directory.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where records go.", required=True)
_TASK = flags.DEFINE_string("task", None, "Whose problems are solved.", required=True)
_LENGTH = flags.DEFINE_integer("length", None, "Their length.", 1, required=True)
_COUNT = flags.DEFINE_integer("count", 64, "How many problems.", 1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 1, "Problems at once.", 1)
_MOST = flags.DEFINE_integer("max_new_tokens", 256, "Tokens to write at most.", 1)
_DRAFTERS = flags.DEFINE_list("drafters", ["context"], "Drafters to compare.")
_REPEATS = flags.DEFINE_integer("repeats", 3, "Measured rounds.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the problems.", 0)


def main() -> None:
    config, params = checkpoint.load_params(_RUN.value)
    if config.model.kind != "decoder":
        raise ValueError(f"{_RUN.value} holds no decoder but a {config.model.kind}")
    drafts, _, index = drafting.from_flags(
        TaskTokenizer(config.model.num_numbers).identity, _DRAFTERS.value
    )
    drafts = [decode.PLAIN, *(d for d in drafts if d.drafter != "none")]
    task = pipeline.make_task(
        _TASK.value, config.evaluation.options.get(_TASK.value, {})
    )
    pipeline.check_lengths(task, (_LENGTH.value, _LENGTH.value), config.model)
    examples = accuracy.test_problems(
        task, [_LENGTH.value], _COUNT.value, _SEED.value, final=True
    )
    count = _COUNT.value // _BATCH_SIZE.value * _BATCH_SIZE.value
    if not count:
        raise ValueError("--count must be at least --batch_size")
    length = sizes(examples.problem[:count])
    prompts = [row[:size] for row, size in zip(examples.problem, length)]
    groups = np.arange(count).reshape(-1, _BATCH_SIZE.value)

    def run(draft: DraftConfig):
        """Decodes all problems -> (states on the host, seconds)."""
        states, before = [], time.perf_counter()
        for rows in groups:
            state = decode.decode(
                params,
                [prompts[row] for row in rows],
                model=config.model,
                max_new_tokens=_MOST.value,
                eos_id=EOS,
                draft=draft,
                index=index,
                width=int(length.max()),
            )
            kept = (state.tokens, state.length, state.steps)
            states.append(jax.device_get(kept))
        return states, time.perf_counter() - before

    seconds = {draft.drafter: [] for draft in drafts}
    made = {draft.drafter: run(draft)[0] for draft in drafts}
    plain = made["none"]
    for name, states in made.items():
        for ours, theirs in zip(states, plain, strict=True):
            if not np.array_equal(ours[0], theirs[0]):
                raise ValueError(f"{name} wrote another text than plain decoding")
    for _ in range(_REPEATS.value):
        for draft in drafts:
            seconds[draft.drafter].append(run(draft)[1])

    texts = [
        Target(row[:size].astype(np.int32), int(prompt))
        for states, rows in zip(plain, groups)
        for row, size, prompt in zip(states[0], states[1], length[rows])
    ]
    new = sum(len(text.tokens) - text.prompt_length for text in texts)
    about = command.describe() | {"run": _RUN.value, "task": _TASK.value}
    about |= {"length": _LENGTH.value, "batch_size": _BATCH_SIZE.value, "texts": count}
    lines = []
    for draft in drafts:
        steps = sum(int(state[2].sum()) for state in made[draft.drafter])
        passes = sum(int(state[2].max()) for state in made[draft.drafter])
        spent = np.array(seconds[draft.drafter])
        ratios = np.array(seconds["none"]) / spent
        speed_up, rate = float(np.median(ratios)), new / steps
        drafting_ms = 0.0
        if draft.drafter != "none":
            drafting_ms = float(np.median(time_drafter(texts, index, draft, 200))) * 1e3
        step_ms = float(np.median(spent)) / passes * 1e3
        lines.append(
            {
                "drafter": draft.drafter,
                "num_draft": draft.num_draft,
                "M": round(rate, 3),
                "tokens_per_second": round(new / float(np.median(spent)), 1),
                "ms_a_step": round(step_ms, 3),
                "drafting_share": round(drafting_ms / step_ms, 3),
                "speed_up": round(speed_up, 3),
                "speed_up_range": [
                    round(float(x), 3) for x in np.sort(ratios)[[0, -1]]
                ],
                "speed_up_by_M": round(speed_up / rate, 3),
            }
            | about
        )
    path = epath.Path(_WORKDIR.value)
    path.mkdir(parents=True, exist_ok=True)
    records.append_lines(path / "records.jsonl", lines)
    for line in lines:
        print(json.dumps({k: v for k, v in line.items() if k not in about}))


if __name__ == "__main__":
    command.run(main)
