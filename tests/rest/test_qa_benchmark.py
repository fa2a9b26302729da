"""The question benchmark: prompts, records, resuming and the choice of a tree size."""

import dataclasses
import json

import pytest

from relay_jax.chat_template import TEMPLATES, conversation
from relay_jax.config import DraftConfig, ModelConfig, SamplingConfig, TrainConfig
from relay_jax.rest import qa_benchmark
from relay_jax.rest.drafters import AUTOTUNE, resize
from relay_jax.rest.qa_benchmark import QaBenchmark, Question
from relay_jax.training.step import init_params
from relay_jax.vocabulary import EOS, TaskTokenizer

MODEL = ModelConfig(kind="decoder", num_layers=1, dim=16, mlp_dim=16, num_numbers=12)
QUESTIONS = [
    Question("one", ("1+2=",), "sums"),
    Question("two", ("3*4=", "5-"), "products"),
]


@pytest.fixture(scope="module")
def benchmark():
    return QaBenchmark(
        params=init_params(TrainConfig(model=MODEL)),
        model=MODEL,
        tokenizer=TaskTokenizer(12),
        eos_id=EOS,
        template=TEMPLATES["plain"],
        draft=DraftConfig("prompt_lookup", num_draft=4),
        sampling=SamplingConfig(),
        max_new_tokens=20,
    )


def test_every_turn_is_answered_by_both_decoders(benchmark, tmp_path, monkeypatch):
    prompts = []

    def watched(questions, answers):
        prompts.append((list(questions), list(answers)))
        return conversation(questions, answers)

    monkeypatch.setattr(qa_benchmark, "conversation", watched)
    file = tmp_path / "records.jsonl"
    lines = list(qa_benchmark.run_benchmark(benchmark, QUESTIONS, file))
    assert [line["question"] for line in lines] == ["one", "two"]
    assert [len(line["turns"]) for line in lines] == [1, 2]
    for alone, drafted in (turn for line in lines for turn in line["turns"]):
        assert (alone["drafter"], drafted["drafter"]) == ("none", "prompt_lookup")
        assert alone["text"] == drafted["text"] and drafted["same_text"]
        assert alone["M"] == 1.0 <= drafted["M"]
        assert alone["new_tokens"] == alone["steps"] == drafted["new_tokens"] <= 20
        assert drafted["speed_up"] > 0 and alone["ms_per_token"] > 0
    first = lines[1]["turns"][0][0]["text"]
    assert prompts == [
        (["1+2="], []),
        (["3*4="], []),
        (["3*4=", "5-"], [first]),
    ]
    total = qa_benchmark.summarize(lines)
    assert [line["answers"] for line in total] == [3, 3]
    assert total[0]["speed_up"] == total[0]["M"] == total[1]["same_texts"] == 1.0
    steps = sum(turn[1]["steps"] for line in lines for turn in line["turns"])
    assert total[1]["M"] == pytest.approx(total[1]["new_tokens"] / steps, abs=1e-3)


def test_answers_that_are_cut_or_too_long_are_counted(benchmark, tmp_path):
    small = dataclasses.replace(MODEL, context_length=22)  # 4 tokens of 26 are beyond
    lines = list(
        qa_benchmark.run_benchmark(
            benchmark._replace(model=small, eos_id=-1), QUESTIONS, tmp_path / "records"
        )
    )
    for line in qa_benchmark.summarize(lines):
        assert line["answers"] == line["cut_answers"] == 3
        assert line["answers_beyond_context"] == 3
    for turns in (turn for line in lines for turn in line["turns"]):
        for answer in turns:
            assert (answer["finish_reason"], answer["new_tokens"]) == ("length", 20)
            del answer["finish_reason"], answer["beyond_context"]  # an earlier version
    assert qa_benchmark.summarize(lines)[0]["cut_answers"] == 0


def test_recorded_questions_are_not_answered_again(benchmark, tmp_path, monkeypatch):
    file = tmp_path / "records.jsonl"
    lines = list(qa_benchmark.run_benchmark(benchmark, QUESTIONS[:1], file))
    file.write_text(file.read_text() + '{"question": "tw')  # as a crash leaves it
    both = list(qa_benchmark.run_benchmark(benchmark, QUESTIONS, file))
    assert both[0] == lines[0] and both[1]["question"] == "two"
    assert [json.loads(line) for line in file.read_text().splitlines()] == both
    monkeypatch.setattr(qa_benchmark, "_decode", None)
    assert list(qa_benchmark.run_benchmark(benchmark, QUESTIONS, file)) == both
    other = [QUESTIONS[0], QUESTIONS[1]._replace(turns=("3*4=", "6-"))]
    with pytest.raises(ValueError, match="answers another text of question two"):
        list(qa_benchmark.run_benchmark(benchmark, other, file))
    old = [line for line in both if line.pop("question_sha256")]  # of earlier versions
    file.write_text("".join(json.dumps(line) + "\n" for line in old))
    assert list(qa_benchmark.run_benchmark(benchmark, other, file)) == old


def test_every_step_chooses_its_size(benchmark, tmp_path, expensive_steps):
    open_draft = resize(benchmark.draft, AUTOTUNE)
    tuned = benchmark._replace(draft=open_draft, cache_file=tmp_path / "times")
    file = tmp_path / "records.jsonl"
    lines = list(qa_benchmark.run_benchmark(tuned, QUESTIONS, file))
    total = qa_benchmark.summarize(lines)
    assert [line["drafter"] for line in total] == ["none", "prompt_lookup"]
    assert [line["autotuned"] for line in total] == [False, True]
    assert total[1]["num_draft"] == 0.0 and total[1]["M"] == 1.0
    steps = sum(turn[1]["steps"] for line in lines for turn in line["turns"])
    assert total[1]["draft_sizes"] == {"0": steps}
