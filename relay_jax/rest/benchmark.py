"""Benchmark: plain decoding against drafters, on the same prompts, in one run.

Each of them decodes all prompts once unmeasured (compilation), then `repeats` times in
turns, so that a slow minute of the machine affects all of them. Texts must be equal.
"""

import collections
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from relay_jax.base import Array, Float, Host, Int, PyTree
from relay_jax.config import DraftConfig, ModelConfig
from relay_jax.decoding import decode
from relay_jax.decoding.drafter import DecodedText, ignore_logits, shard_like
from relay_jax.decoding.tree_size import StepSeconds
from relay_jax.rest import autotune, drafters
from relay_jax.rest.drafters import AUTOTUNE, PLAIN, make_drafter
from relay_jax.rest.looped_draft import LoopedDraft
from relay_jax.rest.replay import Target, time_drafter

TIMED_DRAFTS = 200


class Workload(NamedTuple):
    """What every drafter decodes: a model and prompts."""

    params: PyTree
    model: ModelConfig
    prompts: list[Int[Host, "_"]]
    max_new_tokens: int
    eos_id: decode.EndIds = decode.NO_EOS
    batch_size: int = 1
    index: Any = None  # of the datastore, if any; `IndexWithRecent` grows while it runs
    looped_draft: LoopedDraft | None = None  # of each prompt, if any

    def index_for(self, draft: DraftConfig, rows: Int[Host, " b"]) -> Any:
        """What a drafter searches for some of the prompts."""
        needs = drafters.DRAFTERS[draft.drafter].index if draft.num_draft else ""
        if needs == drafters.LOOPED_DRAFT and self.looped_draft is not None:
            return LoopedDraft(*(part[rows] for part in self.looped_draft))
        return self.index if needs == drafters.DATASTORE else None


class Generated(NamedTuple):
    """One batch of texts, prompts included."""

    tokens: Int[Host | Array, "b m"]
    length: Int[Host | Array, " b"]
    steps: Int[Host | Array, " b"]
    counts: dict[int, int]  # of `autotune.draft_sizes`


def compare(
    workload: Workload,
    drafts: list[DraftConfig],
    repeats: int = 3,
    cache_file: epath.PathLike | None = None,
) -> list[dict[str, Any]]:
    """Times plain decoding and every drafter: a line for each, plain decoding first.

    Args:
      drafts: with `drafters.AUTOTUNE` as `num_draft`, every step chooses its size.
      repeats: the number of measurements of each.
      cache_file: the cache of step times, see `autotune.measure_times`.

    Raises:
      ValueError: a draft config is not valid; there are fewer prompts than one batch;
        or a drafter changed a text (in float32; other types may differ at near-ties).
    """
    if len(workload.prompts) < workload.batch_size:
        raise ValueError(
            f"{len(workload.prompts)} prompts do not fill one batch of "
            f"{workload.batch_size}"
        )
    workload = workload._replace(params=shard_like(workload.params, workload.index))
    requested = [PLAIN, *(d for d in drafts if d.drafter != "none")]
    for draft in requested:
        drafters.check(draft, workload.index_for(draft, np.zeros(1, int)))
    times = {draft: _measure_times(workload, draft, cache_file) for draft in requested}
    generated = {draft: _run(workload, draft, times[draft])[0] for draft in times}
    plain = generated[PLAIN]
    same = {draft: _same_texts(texts, plain) for draft, texts in generated.items()}
    if workload.model.dtype == "float32" and min(same.values()) < 1:
        wrong = min(same, key=same.__getitem__).drafter
        raise ValueError(f"{wrong} generated another text than plain decoding")
    rounds = [
        [_run(workload, draft, times[draft])[1] for draft in times]
        for _ in range(repeats)
    ]
    seconds = dict(zip(times, np.swapaxes(rounds, 0, 1)))  # [repeats, batches] each
    targets = _targets(workload, plain)
    measured = {
        draft: {"same_texts": same[draft]}
        | _measures(generated[draft], seconds[draft], seconds[PLAIN], targets)
        | _drafting_share(draft, generated[draft], seconds[draft], workload)
        for draft in times
    }
    lines = [
        {"drafter": draft.drafter}
        | describe_sizes(draft, _sum_counts(generated[draft]))
        | measured[draft]
        for draft in requested
    ]
    return [line | _compare_with_fixed(line, lines) for line in lines]


def _compare_with_fixed(line: dict[str, Any], lines: list[dict[str, Any]]) -> dict:
    """How a size that every step chooses compares with the best fixed one in hindsight.

    Plain decoding is one of the fixed sizes.
    """
    fixed = {
        other["num_draft"]: other["speed_up"]
        for other in lines
        if other["drafter"] in (line["drafter"], "none") and not other["autotuned"]
    }
    if not line["autotuned"]:
        return {}
    best = max(fixed, key=fixed.__getitem__)
    return {
        "best_fixed": best,
        "of_best_fixed": round(line["speed_up"] / fixed[best], 3),
    }


def describe_sizes(draft: DraftConfig, sizes: Mapping[int, int]) -> dict[str, Any]:
    """The sizes of draft trees, for records: of an open size, the mean of all steps.

    Args:
      sizes: of `autotune.draft_sizes`.
    """
    is_open = draft.num_draft == AUTOTUNE
    mean = autotune.mean_size(sizes) if is_open else draft.num_draft
    by_size = {str(size): count for size, count in sorted(sizes.items())}
    return {"num_draft": mean, "autotuned": is_open, "draft_sizes": by_size}


def _measure_times(
    workload: Workload, draft: DraftConfig, cache_file: epath.PathLike | None
) -> StepSeconds | None:
    """The times of steps, if the size of the draft tree is open."""
    rows = _groups(workload)[0]
    drafter, state = _start(workload, draft, rows)
    return autotune.measure_times(
        *(workload.params, state, drafter, workload.index_for(draft, rows)),
        draft=draft,
        model=workload.model,
        eos_id=workload.eos_id,
        cache_file=cache_file,
    )


def _sum_counts(texts: list[Generated]) -> dict[int, int]:
    return dict(
        sum((collections.Counter(t.counts) for t in texts), collections.Counter())
    )


def _groups(workload: Workload) -> Int[Host, "k b"]:
    """The prompts of each batch; those that do not fill one are left out."""
    count = len(workload.prompts) // workload.batch_size * workload.batch_size
    return np.arange(count).reshape(-1, workload.batch_size)


def _padded(workload: Workload, rows) -> tuple[Int[Host, "b p"], Int[Host, " b"]]:
    width = max(map(len, workload.prompts))
    prompts = [workload.prompts[row] for row in rows]
    return decode.pad_prompts(prompts, workload.model.vocab_size, width)


def _run(
    workload: Workload, draft: DraftConfig, times: StepSeconds | None
) -> tuple[list[Generated], Float[Host, " k"]]:
    """Decodes all prompts; returns the texts and the seconds of every batch."""
    texts, seconds = [], []
    for rows in _groups(workload):
        before = time.perf_counter()
        state, counts = _decode(workload, draft, rows, times)
        text = jax.device_get((state.tokens, state.length, state.steps))
        texts.append(Generated(text[0], text[1], text[2], counts))
        seconds.append(time.perf_counter() - before)
        if getattr(workload.index, "recent", None) is not None:
            for text, length in zip(texts[-1].tokens, texts[-1].length):
                index = workload.index.append(np.asarray(text[:length]))
                workload = workload._replace(index=index)
    return texts, np.array(seconds)


def _start(workload: Workload, draft: DraftConfig, rows):
    """The drafter, and the state after a batch of prompts has been read."""
    drafter = autotune.make_drafter(draft, workload.params, workload.model)
    tokens, length = _padded(workload, rows)
    state = decode.start(
        workload.params,
        *(tokens, length, decode.request_keys(0, len(tokens)), drafter),
        model=workload.model,
        max_new_tokens=workload.max_new_tokens,
    )
    return drafter, state


def _decode(
    workload: Workload, draft: DraftConfig, rows, times: StepSeconds | None
) -> tuple[decode.DecodeState, dict[int, int]]:
    """Decodes one batch of prompts; returns also the steps by size."""
    drafter, state = _start(workload, draft, rows)
    state = decode.advance(
        *(workload.params, autotune.set_times(state, times), drafter),
        workload.index_for(draft, rows),
        model=workload.model,
        eos_id=workload.eos_id,
    )
    return state, autotune.draft_sizes(state, draft, drafter)


def _same_texts(texts: list[Generated], plain: list[Generated]) -> float:
    """The fraction of texts that equal plain decoding's."""
    return float(
        np.mean([np.all(a.tokens == b.tokens, axis=1) for a, b in zip(texts, plain)])
    )


def _targets(workload: Workload, texts: list[Generated]) -> list[Target]:
    rows = _groups(workload).ravel()
    pairs = [(t, n) for part in texts for t, n in zip(part.tokens, part.length)]
    return [
        Target(tokens[:length].astype(np.int32), len(workload.prompts[row]))
        for row, (tokens, length) in zip(rows, pairs, strict=True)
    ]


def _measures(texts, seconds, plain, targets) -> dict[str, Any]:
    new = sum(len(target.tokens) - target.prompt_length for target in targets)
    rate = new / sum(int(part.steps.sum()) for part in texts)
    by_batch = np.median(plain, axis=0) / np.median(seconds, axis=0)
    plain, seconds = plain.sum(axis=1), seconds.sum(axis=1)
    ratios = plain / seconds
    speed_up, median = float(np.median(ratios)), float(np.median(seconds))
    return {
        "M": round(rate, 3),
        "tokens_per_second": round(new / median, 1),
        "ms_per_step": round(median / _passes(texts) * 1e3, 3),
        "speed_up": round(speed_up, 3),
        "speed_up_min": round(float(ratios.min()), 3),
        "speed_up_max": round(float(ratios.max()), 3),
        "speed_up_by_M": round(speed_up / rate, 3),
        "speed_up_of_batches": [round(float(ratio), 3) for ratio in by_batch],
        "texts": len(targets),
        "new_tokens": new,
        "tokens_of_texts": [len(t.tokens) - t.prompt_length for t in targets],
        "steps_of_texts": [int(n) for part in texts for n in part.steps],
    }


def _passes(texts: list[Generated]) -> int:
    """Forward passes, each of a whole batch."""
    return sum(int(part.steps.max()) for part in texts)


def _drafting_share(draft, texts, seconds, workload) -> dict[str, float]:
    """The fraction of a step's time that drafting takes, on the same batches."""
    if not draft.num_draft:
        return {"drafting_share": 0.0}
    calls, rows = _sample_texts(workload, texts, TIMED_DRAFTS), _groups(workload)[0]
    index, drafter_state = workload.index_for(draft, rows), ()
    if make_drafter(draft).observe is not ignore_logits:
        drafter_state = _decode(workload, draft, rows, None)[0].drafter_state
    alone = float(np.median(time_drafter(calls, index, draft, drafter_state)))
    step = float(np.median(seconds.sum(axis=1))) / _passes(texts)
    return {"drafting_share": round(alone / step, 3)}


def _sample_texts(
    workload: Workload, texts: list[Generated], count: int
) -> list[DecodedText]:
    """The batches that were decoded, each row cut at a uniformly drawn position."""
    rng = np.random.default_rng(0)
    firsts = [
        np.array([len(workload.prompts[row]) for row in rows])
        for rows in _groups(workload)
    ]
    sampled = []
    for i in range(count):
        generated, first = texts[i % len(texts)], firsts[i % len(texts)]
        length = rng.integers(first, generated.length)
        is_text = np.arange(generated.tokens.shape[1])[None] < length[:, None]
        tokens = np.where(is_text, generated.tokens, 0)
        sampled.append(DecodedText(jnp.asarray(tokens), jnp.asarray(length, jnp.int32)))
    return sampled
