"""Question answering with and without drafts: the protocol of REST, section 4.

A question has one turn (HumanEval) or several (MT-Bench). Later turns always continue
the answer of plain decoding, so that both decoders get the same prompts. Each question
becomes one line of a records file, written as soon as it is answered; a resumed benchmark
continues with the next question.
"""

import collections
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from relay_jax import files
from relay_jax.base import PyTree
from relay_jax.chat_template import ChatTemplate, conversation
from relay_jax.config import DraftConfig, ModelConfig, SamplingConfig
from relay_jax.decoding import decode
from relay_jax.rest.benchmark import describe_sizes
from relay_jax.rest.drafters import PLAIN
from relay_jax.rest.request import Request, prompt_room, run
from relay_jax.tokenizers import Tokenizer


class Question(NamedTuple):
    """A question, turn by turn."""

    key: str
    turns: tuple[str, ...]
    category: str = ""


class QaBenchmark(NamedTuple):
    """The model that answers, and how it decodes."""

    params: PyTree
    model: ModelConfig
    tokenizer: Tokenizer
    eos_id: decode.EndIds  # end an answer
    template: ChatTemplate
    draft: DraftConfig  # compared with plain decoding
    sampling: SamplingConfig
    max_new_tokens: int
    index: Any = None
    seed: int = 0
    cache_file: Any = None  # of measured step times


class Answer(NamedTuple):
    """One answer and its times."""

    text: str
    new_tokens: int
    steps: int  # decode steps
    seconds: float  # of decoding, without the prompt
    prompt_seconds: float  # of the prompt's forward pass
    draft_sizes: dict[int, int]  # steps by the nodes of their draft tree
    finish_reason: str | None  # "length": cut at max_new_tokens
    beyond_context: bool  # prompt and answer exceed the model's context


def run_benchmark(
    benchmark: QaBenchmark, questions: Sequence[Question], file: epath.PathLike
) -> Iterator[dict[str, Any]]:
    """Yields the line of every question; those that the file lacks are answered.

    Prompts of a new width are decoded twice, and the second time is measured, so that
    times exclude compilation.

    Raises:
      ValueError: the file has the answer to a question whose text was another one.
    """
    lines = {}
    if epath.Path(file).exists():
        lines = {line["question"]: line for line in files.read_lines(file)}
        files.write_lines(file, lines.values())  # drops a line that a crash cut off
    for question in questions:
        stored = lines.get(question.key, {}).get("question_sha256")
        if stored not in (None, _hash(question)):
            raise ValueError(
                f"{file} answers another text of question {question.key}: the data has "
                "changed since; give another --workdir"
            )
    compiled = set()
    for number, question in enumerate(questions):
        if question.key in lines:
            yield lines[question.key]
            continue
        seed = benchmark.seed + number
        line = _answer_question(benchmark._replace(seed=seed), question, compiled)
        line["question_sha256"] = _hash(question)
        files.append_lines(file, [line])
        yield line


def _hash(question: Question) -> str:
    """A hash of what is asked."""
    return hashlib.sha256(json.dumps(question.turns).encode()).hexdigest()


def summarize(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Totals over all turns: a line for plain decoding and one for the drafter."""
    turns = [turn for line in lines for turn in line["turns"]]
    totals = [_total(turns, column) for column in range(len(turns[0]))]
    plain_ms = totals[0]["ms_per_token"]
    return [
        total | {"speed_up": round(plain_ms / total["ms_per_token"], 3)}
        for total in totals
    ]


def _answer_question(
    benchmark: QaBenchmark, question: Question, compiled: set
) -> dict[str, Any]:
    answers, turns = [], []
    for last in range(1, len(question.turns) + 1):
        ids = _encode(benchmark, question.turns[:last], answers)
        plain, drafted = (
            _answer(benchmark._replace(draft=draft), ids, compiled)
            for draft in (PLAIN, benchmark.draft)
        )
        answers.append(plain.text)
        turn = [
            _describe_answer(PLAIN, plain),
            _describe_answer(benchmark.draft, drafted),
        ]
        turn[1] |= {
            "same_text": plain.text == drafted.text,
            "speed_up": round(turn[0]["ms_per_token"] / turn[1]["ms_per_token"], 3),
        }
        turns.append(turn)
    return {"question": question.key, "category": question.category, "turns": turns}


def _encode(
    benchmark: QaBenchmark, questions: Sequence[str], answers: Sequence[str] = ()
) -> list[int]:
    messages = conversation(questions, answers)
    return benchmark.template.encode(messages, benchmark.tokenizer)


def _answer(benchmark: QaBenchmark, ids: list[int], compiled: set) -> Answer:
    """Answers one prompt, and again if the first call had to compile."""
    case = (prompt_room(len(ids)), benchmark.draft)
    if case not in compiled:
        _decode(benchmark, ids)
        compiled.add(case)
    return _decode(benchmark, ids)


def _decode(benchmark: QaBenchmark, ids: list[int]) -> Answer:
    *_, output = run(_request(benchmark, ids))
    context = benchmark.model.context_length
    return Answer(
        text=output.texts[0],
        new_tokens=output.num_tokens,
        steps=output.num_steps[0],
        seconds=output.seconds,
        prompt_seconds=output.prompt_seconds,
        draft_sizes=output.draft_sizes,
        finish_reason=output.finish_reasons[0],
        beyond_context=0 < context < len(ids) + output.num_tokens,
    )


def _request(benchmark: QaBenchmark, ids: list[int]) -> Request:
    return Request(
        params=benchmark.params,
        model=benchmark.model,
        tokenizer=benchmark.tokenizer,
        prompts=[ids],
        max_new_tokens=benchmark.max_new_tokens,
        eos_ids=benchmark.eos_id,
        draft=benchmark.draft,
        index=benchmark.index,
        sampling=benchmark.sampling,
        seed=benchmark.seed,
        cache_file=benchmark.cache_file,
    )


def _describe_answer(draft: DraftConfig, answer: Answer) -> dict[str, Any]:
    measured = {
        "drafter": draft.drafter,
        "M": round(answer.new_tokens / answer.steps, 3),
        "ms_per_token": round(answer.seconds / answer.new_tokens * 1e3, 3),
    }
    return measured | answer._asdict() | describe_sizes(draft, answer.draft_sizes)


def _total(turns: list[list[dict[str, Any]]], column: int) -> dict[str, Any]:
    answers = [turn[column] for turn in turns]
    tokens, steps, seconds = (
        sum(answer[name] for answer in answers)
        for name in ("new_tokens", "steps", "seconds")
    )
    sizes: collections.Counter[str] = collections.Counter()
    for answer in answers:
        sizes.update(answer.get("draft_sizes", {}))
    nodes = sum(answer["num_draft"] * answer["steps"] for answer in answers)
    is_open = answers[0].get("autotuned", False)
    # Records of an earlier version do not say how an answer ended.
    is_cut = [answer.get("finish_reason") == "length" for answer in answers]
    return {
        "drafter": answers[0]["drafter"],
        "num_draft": round(nodes / steps, 1) if is_open else answers[0]["num_draft"],
        "autotuned": is_open,
        "draft_sizes": dict(sizes),
        "answers": len(answers),
        "cut_answers": sum(is_cut),
        "answers_beyond_context": sum(a.get("beyond_context", False) for a in answers),
        "new_tokens": tokens,
        "M": round(tokens / steps, 3),
        "M_mean_of_answers": round(float(np.mean([a["M"] for a in answers])), 3),
        "ms_per_token": round(seconds / tokens * 1e3, 3),
        "same_texts": float(np.mean([a.get("same_text", True) for a in answers])),
    }
