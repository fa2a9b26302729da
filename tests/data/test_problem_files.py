"""Files of problems: what we print and what is published are read; the rest is refused."""

import random

import numpy as np
import pytest

from relay_jax.base import Examples
from relay_jax.config import (
    BucketConfig,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    TrainConfig,
)
from relay_jax.data.alignment import flatten, sizes
from relay_jax.data.buckets import open_buckets
from relay_jax.data.problem_files import read_problems, select_problems
from relay_jax.data.sources import is_test
from relay_jax.evaluation import accuracy
from relay_jax.evaluation.evaluate import evaluate_problems, read_problems_for
from relay_jax.evaluation.predict import Predictions
from relay_jax.tasks import TASKS, make_task
from relay_jax.vocabulary import TaskTokenizer
from tests.tasks import published

NUM_NUMBERS = 256
TOKENIZER = TaskTokenizer(NUM_NUMBERS)
OPTIONS = {
    "arithmetic": {},
    "edit_distance": {"border_cost": 1, "max_extra": 3},
    "lis": {},
}


EVALUATION = EvaluationConfig(lengths={"arithmetic": (1, 3)})


def printed(task, examples):
    """Examples as our tokenizer prints a decoder's texts, with <eos>."""
    text, _ = flatten(examples, task)
    return [TOKENIZER.decode(row[:size]) for row, size in zip(text, sizes(text))]


def published_lines(name, count, chain):
    """Lines of problems of three lengths, in turn."""
    write, options = published.TASKS[name]
    rng = random.Random(0)
    return [write(rng, 4 + 5 * (i % 3), chain, **options) for i in range(count)]


def read(tmp_path, task, lines):
    file = tmp_path / "problems.txt"
    file.write_text("\n".join(lines))
    return read_problems(file, task, NUM_NUMBERS)


@pytest.mark.parametrize("blanks", [False, True])
@pytest.mark.parametrize("name", TASKS)
def test_what_we_print_is_read_again(name, blanks, tmp_path):
    task = make_task(name, OPTIONS[name])
    rng = np.random.default_rng(0)
    count = 1100 if name == "lis" else 100  # more than are solved together, and fewer
    examples = task.sample(rng, np.append(rng.integers(1, 13, size=count), 12))
    lines = printed(task, examples)
    if blanks:  # and without the optional marks
        symbols = [map(TOKENIZER.decode, zip(TOKENIZER.encode(line))) for line in lines]
        lines = [" ".join([*row][1:-1]) for row in symbols]
    found = read(tmp_path, task, lines)
    for one, other in zip(found.examples, examples, strict=True):
        np.testing.assert_array_equal(one, other)
    assert found.has_chain.all() and not found.has_other_chain.any()


@pytest.mark.parametrize("chain", [False, True])
@pytest.mark.parametrize("name", TASKS)
def test_published_lines_are_read(name, chain, tmp_path):
    task = make_task(name, OPTIONS[name])
    lines = published_lines(name, 60, chain)
    found = read(tmp_path, task, [*lines[:30], "", *lines[30:]])
    assert len(found.examples.problem) == 60
    for line, ours in zip(lines, printed(task, found.examples)):
        assert TOKENIZER.encode(line)[-1] == TOKENIZER.encode(ours)[-2]
    has_chain, has_other = found.has_chain, found.has_other_chain
    assert not np.any(has_chain & has_other)
    if not chain:
        assert not np.any(has_chain | has_other)
    elif name == "arithmetic":  # operations are undone in the order of growth
        assert np.all(has_chain | has_other) and 0 < has_chain.sum() < 30
    else:
        assert np.all(has_chain)


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("arithmetic", "2 + 3", "there is no = after the problem"),
        ("arithmetic", "2 + 3 =", "it does not end with a number, the answer"),
        ("arithmetic", "2 + ) = 3", "arithmetic: a problem is numbers with + - * /"),
        (
            "arithmetic",
            "12 + 1 = 2",
            "arithmetic: numbers are 0..10, modulo 11; got 12",
        ),
        ("arithmetic", "2 + 300 = 2", "the number 300 is not in the vocabulary, which"),
        ("arithmetic", "2 + 3 = five", "it does not end with a number"),
        ("arithmetic", "2 / 0 = 2", "arithmetic: the divisor of a quotient is 0"),
        (
            "arithmetic",
            "( 2 + 3 ) = 5",
            "the problem has 7 tokens, more than the 5 that",
        ),
        (
            "arithmetic",
            "2 + 3 = 6",
            "the answer is 6, expected 5: the problem is solved as Arithmetic(modulus=11",
        ),
        (
            "arithmetic",
            "2 + 3 + 1 = 5 = 6",
            "the chain is wrong or incomplete from its token 2 on ('=')",
        ),
        ("arithmetic", "2 + 3 + 4 = 2 + 3 + 4 = 9", "the chain is wrong or incomplete"),
        ("lis", "130 140 150 <sep> 1 2 <sep> 3", "incomplete from its token 3 on"),
        ("lis", "[ARI] 1 + 2 = 3", "there is no <sep> after the problem"),
        ("lis", "20 130 <sep> 2", "lis: a problem is numbers 121..249 with"),
        (
            "edit_distance",
            "ab|a<sep>2",
            "the second string is at most 3 letters longer",
        ),
        (
            "edit_distance",
            "a|a<sep>0,0<sep>0",
            "incomplete from its token 4 on ('<sep>')",
        ),
        (
            "edit_distance",
            "a b | a b <sep> 0 2 , 2 0 , <sep> 1",
            "the answer is 1, expected 0",
        ),
    ],
)
def test_a_line_that_cannot_be_read(name, line, message, tmp_path):
    task = make_task(name, OPTIONS[name])
    right = published_lines(name, 3, chain=True)
    with pytest.raises(ValueError) as error:
        read(tmp_path, task, [*right[:2], "", line, *right[2:]])
    assert str(error.value).startswith(f"{tmp_path}/problems.txt, line 4: ")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_chain_that_skips_a_round_is_no_other_order(tmp_path):
    task = make_task("arithmetic")
    right = "2 * 3 + 4 * 5 = 2 * 3 + 9 = 6 + 9 = 4"
    assert read(tmp_path, task, [right]).has_other_chain.all()
    with pytest.raises(ValueError, match="line 1: the chain is wrong or incomplete"):
        read(tmp_path, task, ["2 * 3 + 4 * 5 = 2 * 3 + 9 = 4"])


def test_other_borders_are_another_task(tmp_path):
    lines = published_lines("edit_distance", 9, chain=False)
    with pytest.raises(
        ValueError, match=r"solved as EditDistance\(using=8, max_extra=3"
    ):
        read(tmp_path, make_task("edit_distance", {"max_extra": 3}), lines)


def test_files_without_problems(tmp_path):
    task = make_task("lis")
    with pytest.raises(
        ValueError, match=r"problems.txt has no problems; write one a li"
    ):
        read(tmp_path, task, ["", " "])
    with pytest.raises(
        ValueError, match="none.txt cannot be read as a text: .*No such"
    ):
        read_problems(tmp_path / "none.txt", task, NUM_NUMBERS)


def test_problems_are_selected_by_length(tmp_path):
    found = read(tmp_path, make_task("lis"), published_lines("lis", 12, chain=True))
    assert select_problems(found, 2).examples.length.tolist() == [4, 9, 14, 4, 9, 14]
    some = select_problems(found, 3, [9, 10])
    assert some.examples.length.tolist() == [9] * 3 and len(some.has_chain) == 3
    with pytest.raises(ValueError, match=r"of these lengths, only of 4\.\.14"):
        select_problems(found, 3, range(5, 8))


def config_for(tmp_path, lengths):
    bucket = BucketConfig("lis", lengths, kind="problems", path="lis.txt")
    model = ModelConfig(kind="looped", num_numbers=NUM_NUMBERS)
    return TrainConfig(model=model, data=DataConfig(buckets={"file": bucket}))


def test_a_bucket_takes_the_training_problems_of_a_file(tmp_path):
    """Its path is relative to the folder of the run directory."""
    lines = published_lines("lis", 300, chain=False)
    (tmp_path / "lis.txt").write_text("\n".join(lines))
    (bucket,) = open_buckets(config_for(tmp_path, (5, 14)), tmp_path / "run")
    examples = bucket.source.take(np.arange(len(bucket.source)))
    everything = read(tmp_path, make_task("lis"), lines).examples
    wanted = (everything.length > 4) & ~is_test(everything.problem)
    assert 150 < wanted.sum() < 200
    texts = printed(bucket.task, Examples(*(part[wanted] for part in everything)))
    assert sorted(printed(bucket.task, examples)) == sorted(texts)
    with pytest.raises(
        ValueError, match=r"no training problems of lengths 20\.\.30: 0"
    ):
        open_buckets(config_for(tmp_path, (20, 30)), tmp_path / "run")


def test_answers_of_all_lines_and_chains_where_there_are_some(tmp_path, monkeypatch):
    """A model that is right everywhere but in the answer of one line, whose chain is in
    another order."""
    file = tmp_path / "sums.txt"
    file.write_text("1+2*3=1+6=7\n2*3+4*5=2*3+9=6+9=4\n3-1=2\n4*5+6=4\n")
    config = TrainConfig(
        model=ModelConfig(kind="looped", num_numbers=16), evaluation=EVALUATION
    )
    task, problems = read_problems_for(config, file)
    assert problems.has_chain.tolist() == [True, False, True, False]
    assert problems.has_other_chain.tolist() == [False, True, False, False]

    def predict(params, model, task, examples, batch_size):
        rounds = accuracy.right_align(examples.rounds, examples.rounds.shape[-1] + 1)
        answer = examples.answer + np.array([0, 1, 0, 0])
        return Predictions(answer, rounds, np.ones(4))

    monkeypatch.setitem(accuracy.PREDICTORS, "looped", predict)
    common = {"run": "r", "model": "m", "seed": 0, "problems": str(file)}
    records = evaluate_problems(config, {}, task, problems, common)
    whole = {
        (r["metric"], r["length"]): (r["value"], r["count"])
        for r in records
        if "round" not in r
    }
    assert whole == {
        ("answer_accuracy", 1): (1, 1),
        ("answer_accuracy", 2): (1, 2),
        ("answer_accuracy", 3): (0, 1),
        ("chain_accuracy", 1): (1, 1),
        ("chain_accuracy", 2): (1, 1),
        ("token_accuracy", 1): (1, 1),
        ("token_accuracy", 2): (1, 1),
    }
    assert {r["problems"] for r in records} == {str(file)}
    assert {r["task"] for r in records} == {"arithmetic"}


def test_the_task_of_a_file_is_one_of_the_run(tmp_path):
    file = tmp_path / "pairs.txt"
    file.write_text("ab|abcde<sep>6\n")  # three letters more, as published
    evaluation = EvaluationConfig(
        lengths={"edit_distance": (1, 3), "lis": (1, 3)},
        options={"edit_distance": {"max_extra": 2}},
    )
    config = TrainConfig(evaluation=evaluation, name="both")
    task, problems = read_problems_for(config, file, "edit_distance")
    assert task == make_task("edit_distance", {"max_extra": 3})
    assert problems.examples.length.tolist() == [2]
    for name in ("", "arithmetic"):
        with pytest.raises(
            ValueError, match="both has the tasks edit_distance, lis; na"
        ):
            read_problems_for(config, file, name)
    with pytest.raises(
        ValueError, match="line 1: 'a' is|line 1: lis: a problem is num"
    ):
        read_problems_for(config, file, "lis")
