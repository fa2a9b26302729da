"""The looped model as a drafter: it predicts the whole chain, the decoder verifies it.

    looped model   [ARI] 3*2+6/3= | 6+6/3= | 6+2= | 8 <eos>      one round per loop
    decoder        verifies some tens of these tokens in each step

The text remains that of the decoder. After an error of the looped model, drafting
resumes where its chain matches the text again, or with matches in the text itself.
"""

import time
from typing import Any

import numpy as np
from etils import epath

from relay_jax.base import Examples, Host, Int, PyTree
from relay_jax.config import DraftConfig, ModelConfig, TrainConfig
from relay_jax.data.alignment import flatten, left_align, max_new_tokens, sizes
from relay_jax.evaluation import accuracy
from relay_jax.evaluation.predict import final_answer, predict_looped
from relay_jax.rest import benchmark
from relay_jax.rest.looped_draft import LoopedDraft
from relay_jax.tasks import Task
from relay_jax.vocabulary import EOS

TIMED = 3  # timed calls of the looped model, of which the fastest is reported


def draft_texts(
    params: PyTree, model: ModelConfig, task: Task, problems: Examples, batch_size: int
) -> LoopedDraft:
    """The texts that the looped model predicts for the decoder, problems included.

    Args:
      problems: their chains and answers are not used, only the number of rounds.
    """
    predicted = predict_looped(params, model, task, problems, batch_size)
    rounds = left_align(predicted.rounds)
    examples = problems._replace(rounds=rounds, answer=predicted.answer)
    tokens, _ = flatten(examples, task)
    length = sizes(tokens).astype(np.int32)
    return LoopedDraft(tokens[:, : length.max()].astype(np.int32), length)


def compare(
    looped: tuple[TrainConfig, PyTree],
    decoder: tuple[TrainConfig, PyTree],
    task: Task,
    length: int,
    drafts: list[DraftConfig],
    *,
    count: int,
    batch_size: int,
    index: Any = None,
    repeats: int = 3,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Compares plain decoding of test problems of one length with drafters.

    Args:
      looped: config and parameters of the looped model.
      decoder: config and parameters of the decoder.
      count: the number of test problems.
      index: the index of a datastore, for drafters that search one.
      repeats: see `benchmark.compare`.

    Returns:
      One record per drafter: those of `benchmark.compare`, and the seconds that the
      looped model takes for all problems (0 if its drafts are not used), the speed-up
      with these included, and the accuracy of the looped model's drafts.
    """
    problems = accuracy.test_problems(task, [length], count, seed, final=True)
    drafted, seconds = _timed_drafts(looped, task, problems, batch_size)
    text, prompt_size = flatten(problems, task)
    work = benchmark.Workload(
        params=decoder[1],
        model=decoder[0].model,
        prompts=[row[:size] for row, size in zip(text, prompt_size)],
        max_new_tokens=max_new_tokens(task, length),
        eos_id=EOS,
        batch_size=batch_size,
        index=index,
        looped_draft=drafted,
    )
    lines = benchmark.compare(work, drafts, repeats)
    plain = lines[0]["new_tokens"] / lines[0]["tokens_per_second"]
    common = {
        "task": task.name,
        "length": length,
        "batch_size": batch_size,
        "seed": seed,
        "looped_answers": _answer_accuracy(np.asarray(drafted.tokens), problems),
        "same_as_truth": _exact_match(drafted, text),
    }
    for line in lines:
        looped_seconds = seconds if line["drafter"] == "looped" else 0.0
        total = line["new_tokens"] / line["tokens_per_second"] + looped_seconds
        line |= common | {
            "looped_seconds": round(looped_seconds, 4),
            "looped_share": round(looped_seconds / total, 3),
            "overall_speed_up": round(plain / total, 3),
        }
    return lines


def _timed_drafts(looped, task, problems, batch_size) -> tuple[LoopedDraft, float]:
    """The drafts, and the seconds that they take once everything is compiled."""
    args = (looped[1], looped[0].model, task, problems, batch_size)
    drafted, times = draft_texts(*args), []
    for _ in range(TIMED):
        start = time.perf_counter()
        draft_texts(*args)
        times.append(time.perf_counter() - start)
    return drafted, min(times)


def _answer_accuracy(tokens: Int[Host, "b n"], problems: Examples) -> float:
    return float(np.mean(final_answer(tokens)[0] == problems.answer))


def _exact_match(drafted: LoopedDraft, text: Int[Host, "b n"]) -> float:
    """The fraction of drafts that equal the true text."""
    both = (drafted.tokens, text)
    width = max(tokens.shape[1] for tokens in both)
    rows = [np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in both]
    return float(np.mean(np.all(rows[0] == rows[1], axis=1)))


def check_pair(
    looped: TrainConfig, decoder: TrainConfig, paths: tuple[epath.PathLike, ...]
) -> None:
    """Raises ValueError unless the looped model can draft for the decoder."""
    for config, kind, path in zip((looped, decoder), ("looped", "decoder"), paths):
        if config.model.kind != kind:
            raise ValueError(
                f"{path} has a {config.model.kind} model, expected a {kind} model"
            )
    if looped.model.num_numbers != decoder.model.num_numbers:
        raise ValueError(
            f"{paths[0]} has a vocabulary with {looped.model.num_numbers} numbers, "
            f"{paths[1]} one with {decoder.model.num_numbers}; use two runs of one "
            "experiment"
        )
    if not looped.supervises_rounds:
        raise ValueError(
            f"{paths[0]} was trained on answers alone (loss.round_weight=0), so its "
            "rounds are not chains; use an aligned looped model"
        )
