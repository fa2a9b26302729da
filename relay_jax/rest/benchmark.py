"""Speed: plain decoding against drafters, on the same prompts, in one run.

Everything decodes all prompts once unmeasured (compilation), then `repeats` times in
turns, so that a slow minute of the machine hits all alike. The texts must be the same.
"""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from relay_jax.base import Array, Host, Int, PyTree
from relay_jax.config import DraftConfig, ModelConfig
from relay_jax.decoding import decode
from relay_jax.rest import autotune, drafters
from relay_jax.rest.drafters import Text
from relay_jax.rest.index import IndexWithRecent, append_recent, shard_like
from relay_jax.rest.replay import Target, time_drafter

TIMED_DRAFTS = 200


class Work(NamedTuple):
    """What is decoded, whatever drafts."""

    params: PyTree
    model: ModelConfig
    prompts: list[Int[Host, "_"]]
    max_new_tokens: int
    eos_id: decode.EndIds = decode.NO_EOS
    batch_size: int = 1
    index: Any = None  # of the datastore, if there is one; a live one learns texts
    guess: drafters.LoopedDraft | None = None  # of each prompt, if there is one

    def index_for(self, draft: DraftConfig, rows: Int[Host, " b"]) -> Any:
        """What a drafter looks into for these prompts."""
        needs = drafters.DRAFTERS[draft.drafter].looks_into if draft.num_draft else ""
        if needs == drafters.LOOPED_DRAFT and self.guess is not None:
            return drafters.LoopedDraft(*(part[rows] for part in self.guess))
        return self.index if needs == drafters.STORE else None


class Written(NamedTuple):
    """One batch of texts."""

    tokens: Int[Host | Array, "b m"]
    length: Int[Host | Array, " b"]
    steps: Int[Host | Array, " b"]


def compare(
    work: Work,
    drafts: list[DraftConfig],
    repeats: int = 3,
    cache_file: epath.PathLike | None = None,
) -> list[dict[str, Any]]:
    """Times plain decoding and every drafter: a line each, plain decoding first.

    Args:
      drafts: `num_draft` may be `autotune.AUTOTUNE`: what the first prompts ask for.
      cache_file: where step times are kept, see `autotune.autotune`.

    Raises:
      ValueError: a draft config cannot work, there are fewer prompts than one batch, or
        a drafter wrote another text (float32; other types may differ at near-ties).
    """
    if len(work.prompts) < work.batch_size:
        raise ValueError(
            f"{len(work.prompts)} prompts do not fill one batch of {work.batch_size}"
        )
    work = work._replace(params=shard_like(work.params, work.index))
    wanted = [decode.PLAIN, *(d for d in drafts if d.drafter != "none")]
    used = [_sized(work, draft, cache_file) for draft in wanted]
    unique = list(dict.fromkeys(used))  # a chosen size may be asked for too, or be 0
    made = {draft: _run(work, draft)[0] for draft in unique}
    plain = made[decode.PLAIN]
    same = {draft: _same_texts(texts, plain) for draft, texts in made.items()}
    if work.model.dtype == "float32" and min(same.values()) < 1:
        wrong = min(same, key=same.__getitem__).drafter
        raise ValueError(f"{wrong} wrote another text than plain decoding")
    rounds = [[_run(work, draft)[1] for draft in unique] for _ in range(repeats)]
    seconds = dict(zip(unique, np.array(rounds).T))
    targets = _targets(work, plain)
    told = {
        draft: {"same_texts": same[draft]}
        | _measures(made[draft], seconds[draft], seconds[decode.PLAIN], targets)
        | _drafting(draft, made[draft], seconds[draft], work)
        for draft in unique
    }
    return [
        {
            "drafter": asked.drafter,
            "num_draft": draft.num_draft,
            "autotuned": asked.num_draft == autotune.AUTOTUNE,
        }
        | told[draft]
        for asked, draft in zip(wanted, used)
    ]


def _sized(work: Work, draft: DraftConfig, cache_file) -> DraftConfig:
    """The draft config with its tree size chosen by the first prompts, if it is open."""
    if draft.num_draft != autotune.AUTOTUNE:
        drafters.check(draft, work.index_for(draft, np.zeros(1, int)))
        return draft
    seconds, paces = {}, []
    groups = _groups(work)[: -(-autotune.PROBED_ROWS // work.batch_size)]
    for rows in groups:
        tokens, length = _padded(work, rows)
        state = decode.start(
            work.params,
            *(tokens, length, decode.request_keys(0, len(tokens))),
            drafters.initial_table(draft, work.model.vocab_size),
            model=work.model,
            max_new_tokens=work.max_new_tokens,
        )
        _, fit = autotune.autotune(
            *(work.params, state, work.index_for(draft, rows)),
            model=work.model,
            draft=draft,
            eos_id=work.eos_id,
            cache_file=cache_file,
        )
        seconds = fit.seconds
        paces.append([1 / max(rate, 1.0) for rate in fit.rates.values()])
    rates = dict(zip(seconds, 1 / np.mean(paces, axis=0)))
    return autotune.choose(draft, seconds, rates).draft


def _groups(work: Work) -> Int[Host, "k b"]:
    """The prompts of each batch; what does not fill one is left out."""
    count = len(work.prompts) // work.batch_size * work.batch_size
    return np.arange(count).reshape(-1, work.batch_size)


def _padded(work: Work, rows) -> tuple[Int[Host, "b p"], Int[Host, " b"]]:
    width = max(map(len, work.prompts))
    prompts = [work.prompts[row] for row in rows]
    return decode.pad_prompts(prompts, work.model.vocab_size, width)


def _run(work: Work, draft: DraftConfig) -> tuple[list[Written], float]:
    """Decodes all prompts -> texts, seconds."""
    texts, before = [], time.perf_counter()
    for rows in _groups(work):
        state = _decode(work, draft, rows)
        texts.append(jax.device_get(Written(state.tokens, state.length, state.steps)))
        if isinstance(work.index, IndexWithRecent):
            for text, length in zip(texts[-1].tokens, texts[-1].length):
                index = append_recent(work.index, np.asarray(text[:length]))
                work = work._replace(index=index)
    return texts, time.perf_counter() - before


def _decode(work: Work, draft: DraftConfig, rows) -> decode.DecodeState:
    """Decodes one batch of prompts."""
    return decode.decode(
        work.params,
        [work.prompts[row] for row in rows],
        model=work.model,
        max_new_tokens=work.max_new_tokens,
        eos_id=work.eos_id,
        draft=draft,
        index=work.index_for(draft, rows),
        width=max(map(len, work.prompts)),
    )


def _same_texts(texts: list[Written], plain: list[Written]) -> float:
    """The share of texts that are those of plain decoding."""
    return float(
        np.mean([np.all(a.tokens == b.tokens, axis=1) for a, b in zip(texts, plain)])
    )


def _targets(work: Work, texts: list[Written]) -> list[Target]:
    rows = _groups(work).ravel()
    told = [(t, n) for part in texts for t, n in zip(part.tokens, part.length)]
    return [
        Target(tokens[:length].astype(np.int32), len(work.prompts[row]))
        for row, (tokens, length) in zip(rows, told, strict=True)
    ]


def _measures(texts, seconds, plain, targets) -> dict[str, Any]:
    new = sum(len(target.tokens) - target.prompt_length for target in targets)
    rate = new / sum(int(part.steps.sum()) for part in texts)
    ratios = plain / seconds
    speed_up, spent = float(np.median(ratios)), float(np.median(seconds))
    return {
        "M": round(rate, 3),
        "tokens_per_second": round(new / spent, 1),
        "ms_per_step": round(spent / _passes(texts) * 1e3, 3),
        "speed_up": round(speed_up, 3),
        "speed_up_min": round(float(ratios.min()), 3),
        "speed_up_max": round(float(ratios.max()), 3),
        "speed_up_by_M": round(speed_up / rate, 3),
        "texts": len(targets),
        "new_tokens": new,
        "tokens_of_texts": [len(t.tokens) - t.prompt_length for t in targets],
        "steps_of_texts": [int(n) for part in texts for n in part.steps],
    }


def _passes(texts: list[Written]) -> int:
    """Forward passes, each of a whole batch."""
    return sum(int(part.steps.max()) for part in texts)


def _drafting(draft, texts, seconds, work) -> dict[str, float]:
    """The share of a step that retrieval and tree take, for the same batches."""
    if not draft.num_draft:
        return {"drafting_share": 0.0}
    calls, rows = _draw_texts(work, texts, TIMED_DRAFTS), _groups(work)[0]
    if drafters.DRAFTERS[draft.drafter].recycles:
        known = _decode(work, draft, rows).followers
        calls = [text._replace(followers=known) for text in calls]
    index = work.index_for(draft, rows)
    alone = float(np.median(time_drafter(calls, index, draft)))
    step = float(np.median(seconds)) / _passes(texts)
    return {"drafting_share": round(alone / step, 3)}


def _draw_texts(work: Work, texts: list[Written], count: int) -> list[Text]:
    """The batches that were decoded, each row up to a place that is drawn evenly."""
    rng = np.random.default_rng(0)
    firsts = [
        np.array([len(work.prompts[row]) for row in rows]) for rows in _groups(work)
    ]
    drawn = []
    for i in range(count):
        written, first = texts[i % len(texts)], firsts[i % len(texts)]
        length = rng.integers(first, written.length)
        told = np.arange(written.tokens.shape[1])[None] < length[:, None]
        tokens = np.where(told, written.tokens, 0)
        drawn.append(Text(jnp.asarray(tokens), jnp.asarray(length, jnp.int32)))
    return drawn
