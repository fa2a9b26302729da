"""The looped model as a drafter: it says the whole chain, the decoder verifies it.

    looped model   [ARI] 3*2+6/3= | 6+6/3= | 6+2= | 8 <eos>      one round a loop, all at once
    decoder        verifies some tens of these tokens in each of its steps

What is written stays exactly what the decoder writes by itself; where the looped model
errs, the guess is found again behind the error, or the text's own past drafts.
"""

import time
from typing import Any

import numpy as np
from etils import epath

from relay_jax.base import Examples, Host, Int, PyTree
from relay_jax.config import DraftConfig, ModelConfig, TrainConfig
from relay_jax.data.alignment import flatten, left_align, sizes, text_room
from relay_jax.evaluation import accuracy
from relay_jax.evaluation.predict import looped_chains, written_answer
from relay_jax.rest import benchmark
from relay_jax.rest.drafters import LoopedDraft
from relay_jax.tasks import Task
from relay_jax.vocabulary import EOS

TIMED = 3  # calls of the looped model, of which the fastest counts


def draft_texts(
    params: PyTree, model: ModelConfig, task: Task, problems: Examples, batch_size: int
) -> LoopedDraft:
    """The decoder's texts as the looped model expects them, problems included.

    Args:
      problems: of these the problem, and how many rounds it asks for, are read.
    """
    said = looped_chains(params, model, task, problems, batch_size)
    rounds = left_align(said.rounds)
    expected = problems._replace(rounds=rounds, answer=said.answer)
    tokens, _ = flatten(expected, task)
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
    """Plain decoding of test problems of one length against drafts, a line each.

    Besides what `speed.compare` tells, each line has the seconds that the looped model
    takes for all problems (0 where no guess is looked into), the speed-up with these
    counted, and the shares of right answers of the decoder and of the guesses.
    """
    problems = accuracy.test_problems(task, [length], count, seed, final=True)
    said, seconds = _timed(looped, task, problems, batch_size)
    text, prompt_size = flatten(problems, task)
    work = benchmark.Work(
        params=decoder[1],
        model=decoder[0].model,
        prompts=[row[:size] for row, size in zip(text, prompt_size)],
        max_new_tokens=text_room(task, length),
        eos_id=EOS,
        batch_size=batch_size,
        index=index,
        guess=said,
    )
    lines = benchmark.compare(work, drafts, repeats)
    plain = lines[0]["new_tokens"] / lines[0]["tokens_per_second"]
    about = {
        "task": task.name,
        "length": length,
        "batch_size": batch_size,
        "seed": seed,
        "looped_answers": _right(np.asarray(said.tokens), problems),
        "same_as_truth": _same(said, text),
    }
    for line in lines:
        own = seconds if line["drafter"] == "looped" else 0.0
        spent = line["new_tokens"] / line["tokens_per_second"] + own
        line |= about | {
            "looped_seconds": round(own, 4),
            "looped_share": round(own / spent, 3),
            "overall_speed_up": round(plain / spent, 3),
        }
    return lines


def _timed(looped, task, problems, batch_size) -> tuple[LoopedDraft, float]:
    """The guesses, and the seconds that they took once all was compiled."""
    work = (looped[1], looped[0].model, task, problems, batch_size)
    said, spent = draft_texts(*work), []
    for _ in range(TIMED):
        before = time.perf_counter()
        draft_texts(*work)
        spent.append(time.perf_counter() - before)
    return said, min(spent)


def _right(tokens: Int[Host, "b n"], problems: Examples) -> float:
    return float(np.mean(written_answer(tokens)[0] == problems.answer))


def _same(said: LoopedDraft, text: Int[Host, "b n"]) -> float:
    """The share of guesses that are the true text, to the token."""
    width = max(said.tokens.shape[1], text.shape[1])
    rows = [np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in (said.tokens, text)]
    return float(np.mean(np.all(rows[0] == rows[1], axis=1)))


def check_pair(
    looped: TrainConfig, decoder: TrainConfig, places: tuple[epath.PathLike, ...]
) -> None:
    """Raises ValueError unless the one model can draft for the other."""
    for config, kind, place in zip((looped, decoder), ("looped", "decoder"), places):
        if config.model.kind != kind:
            raise ValueError(
                f"{place} holds a {config.model.kind} model, where a {kind} one is wanted"
            )
    if looped.model.num_numbers != decoder.model.num_numbers:
        raise ValueError(
            f"{places[0]} knows {looped.model.num_numbers} numbers, {places[1]} "
            f"{decoder.model.num_numbers}: their words differ; take two runs of one "
            "experiment"
        )
    if not looped.supervises_rounds:
        raise ValueError(
            f"{places[0]} was trained on answers alone (loss.round_weight=0): its rounds "
            "mean nothing; take an aligned looped model"
        )
