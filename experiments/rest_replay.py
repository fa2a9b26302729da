"""Plays known texts against a drafter, without a model, and prints one JSON line.

    python -m experiments.rest_replay --datastore=DIR --targets=FILE.npz \
        --drafter=rest --num_draft=64

M is the mean number of tokens a step; the drafter is the very one that decoding uses.
What a targets file holds: relay_jax/rest/replay.py.
"""

import json

import numpy as np
from absl import flags

from experiments import command, drafting
from relay_jax.rest import drafters, replay

_TARGETS = flags.DEFINE_string("targets", None, "A .npz file of texts.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 16, "Texts at once.", lower_bound=1)
_TIMED = flags.DEFINE_integer("timed_calls", 500, "Single calls timed.", lower_bound=1)
flags.mark_flag_as_required("targets")
flags.set_default(drafting.NUM_DRAFT, "64")  # no model, so no step to time


def main() -> None:
    if "auto" in drafting.NUM_DRAFT.value:
        raise ValueError("--num_draft must be a number here: there is no model to time")
    drafts, store = drafting.from_flags()
    draft = drafting.one(drafts)
    drafters.check(draft, store, has_logits=False)
    targets = replay.load_targets(_TARGETS.value)
    if store is not None:
        replay.check_targets(targets, store.vocab_size)
    index = drafting.load_index(store)
    scores = replay.replay_targets(
        targets, index, draft, _BATCH_SIZE.value, progress=True
    )
    new, steps, nodes = np.sum(scores, axis=0)
    texts = replay.sample_texts(targets, _TIMED.value)
    seconds = replay.time_drafter(texts, index, draft)
    means = [score.new_tokens / score.steps for score in scores]
    line = {
        "drafter": draft.drafter,
        "num_draft": draft.num_draft,
        "M": round(float(new / steps), 4),
        "M_mean_of_texts": round(float(np.mean(means)), 4),
        "steps": int(steps),
        "tokens": int(new),
        "texts": len(scores),
        "nodes_per_step": round(float(nodes / steps), 2),
        "drafter_ms_median": round(float(np.median(seconds)) * 1e3, 4),
        "drafter_ms_p99": round(float(np.quantile(seconds, 0.99)) * 1e3, 4),
    }
    print(json.dumps(line | command.describe()))


if __name__ == "__main__":
    command.run(main)
