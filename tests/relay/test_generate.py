"""Stage II: chains are generated, filtered, stored, and read as training examples."""

import dataclasses

import numpy as np
import pytest
from etils import epath

from relay_jax import config_io, files
from relay_jax.config import (
    BucketConfig,
    ChainsConfig,
    EvaluationConfig,
    ModelConfig,
    TrainConfig,
)
from relay_jax.data.alignment import flatten, right_align
from relay_jax.data.buckets import open_bucket, open_buckets
from relay_jax.data.chain_files import read_chains, read_counts
from relay_jax.evaluation.predict import Predictions
from relay_jax.relay import chain_generator, generate
from relay_jax.relay.chain_generator import FILTERS, ChainGenerator, GeneratedChains
from relay_jax.tasks import TASKS
from relay_jax.training import checkpoint, run_dir
from relay_jax.vocabulary import EOS, PAD, SEP

LIS = {"group": 2, "smallest": 10, "number_range": 20}


def perfect(params, model, task, problems, batch_size):
    """Takes the place of a looped model, and always predicts the truth."""
    rounds = right_align(problems.rounds, problems.rounds.shape[-1] + 2)
    return Predictions(problems.answer, rounds, np.ones(len(problems.answer)))


@pytest.fixture
def looped(monkeypatch):
    model = ModelConfig(kind="looped", num_numbers=64)
    monkeypatch.setattr(chain_generator, "predict_looped", perfect)
    monkeypatch.setattr(
        checkpoint, "load_params", lambda run: (TrainConfig(model=model), {})
    )
    return model


def keep_last(monkeypatch, share):
    """A filter that keeps the last chains of every batch."""

    def keep(chains, *_):
        num = len(chains.is_correct)
        return np.arange(num) >= (1 - share) * (num - 1)

    monkeypatch.setitem(FILTERS, "oracle", keep)


def chains_config(**changes):
    values = {"task": "lis", "options": LIS, "model": "m", "counts": {"3": 5, "4": 2}}
    return config_io.build(ChainsConfig, values | {"batch_size": 4} | changes)


def test_generated_chains_become_a_source(tmp_path, looped):
    share = generate.write_chains(chains_config(), tmp_path / "chains")
    assert share["chain_accuracy"] == {3: 1.0, 4: 1.0}
    task = TASKS["lis"](**LIS)
    config = TrainConfig(model=ModelConfig(kind="decoder", num_numbers=64))
    bucket = BucketConfig("lis", (3, 4), kind="chains", path="chains", options=LIS)
    opened = open_bucket(bucket, config, tmp_path / "run")
    assert len(opened.source) == 7
    taken = opened.source.take(np.arange(7))
    assert sorted(taken.length.tolist()) == [3] * 5 + [4] * 2
    for i in range(7):  # solving the problem again gives the same chain and answer
        numbers = taken.problem[i][taken.problem[i] > 5] - 41
        values = [1] * len(numbers)
        for a in range(len(numbers)):
            for b in range(a):
                if numbers[b] < numbers[a]:
                    values[a] = max(values[a], values[b] + 1)
        assert taken.answer[i] == 41 + max(values)
        text, _ = flatten(type(taken)(*(part[i : i + 1] for part in taken)), task)
        assert (text[0] != 0).sum() == len(numbers) + 2 + 3 * 2 + 2


def test_chains_are_generated_once_and_not_for_another_config(tmp_path, looped):
    first = generate.write_chains(chains_config(), tmp_path)
    file = tmp_path / "lis_003.npz"
    before = file.stat().st_mtime_ns
    (tmp_path / "summary.json").unlink()
    (tmp_path / "lis_004.npz").unlink()  # as if interrupted: the rest is written
    again = generate.write_chains(chains_config(), tmp_path)
    assert again.keys() == first.keys() and file.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"another config: seed is 0 there and 1 here"):
        generate.write_chains(chains_config(seed=1), tmp_path)


def test_filters():
    correct = np.array([True, False, True, False])
    problems = TASKS["lis"](**LIS).sample(np.random.default_rng(0), np.full(4, 3))
    answer = np.where(correct, problems.answer, problems.answer + 1)
    chains = GeneratedChains(
        problems._replace(answer=answer),
        chain_answer=np.where([True, True, False, True], answer, 0),
        head_answer=answer,
        is_correct=correct,
    )

    passed = {name: FILTERS[name](chains, problems, None).tolist() for name in FILTERS}
    assert passed == {
        "none": [True, True, True, True],
        "answer_agrees": [True, True, False, True],
        "oracle": [True, False, True, False],
    }


def test_two_missing_answers_do_not_agree():
    problems = TASKS["lis"](**LIS).sample(np.random.default_rng(0), np.full(4, 3))
    answer = np.where([True, True, False, False], problems.answer, PAD)
    examples = problems._replace(answer=answer)
    chains = GeneratedChains(examples, answer, answer, answer != PAD)
    for judge in (lambda: answer, None):
        passed = FILTERS["answer_agrees"](chains, problems, judge)
        assert passed.tolist() == [True, True, False, False]


def test_a_judge_solves_the_same_problems(tmp_path, monkeypatch):
    """Chains pass where the answer of the judge, another run, is the same."""
    models = {"m": ModelConfig(num_numbers=64), "j": ModelConfig(num_numbers=65)}

    def predict(params, model, task, problems, batch_size):
        predicted = perfect(params, model, task, problems, batch_size)
        disagrees = (model == models["j"]) & (np.arange(len(predicted.answer)) % 2)
        return predicted._replace(answer=predicted.answer + disagrees)

    monkeypatch.setattr(chain_generator, "predict_looped", predict)
    run = lambda path: (TrainConfig(model=models[path.name]), {})
    monkeypatch.setattr(checkpoint, "load_params", run)
    config = chains_config(filter="answer_agrees", judge="j", counts={"3": 4})
    summary = generate.write_chains(config, tmp_path / "chains")
    assert summary["kept_share"] == {3: 0.5} and summary["chain_accuracy"] == {3: 1.0}


@pytest.mark.parametrize("name", TASKS)
def test_an_answer_that_its_chain_does_not_reach_is_rejected(name, monkeypatch):
    """The rounds are correct, but the answer head is not."""
    task = TASKS[name](**(LIS if name == "lis" else {}))
    problems = task.sample(np.random.default_rng(0), np.full(6, 3))
    wrong = np.arange(6) < 2

    def wrong_head(*arguments):
        predicted = perfect(*arguments)
        return predicted._replace(answer=predicted.answer + wrong)

    monkeypatch.setattr(chain_generator, "predict_looped", wrong_head)
    generator = ChainGenerator(ModelConfig(kind="looped", num_numbers=64), {})
    chains = chain_generator.generate(generator, task, problems, 4)
    agree = FILTERS["answer_agrees"](chains, problems, None)
    np.testing.assert_array_equal(agree, ~wrong)
    oracle = FILTERS["oracle"](chains, problems, None)
    if task.answer_in_chain:  # the answer head is not used
        assert chains.is_correct.all() and oracle.all()
    else:
        np.testing.assert_array_equal(chains.is_correct, ~wrong)
        np.testing.assert_array_equal(oracle, ~wrong)


def test_a_decoder_needs_a_judge_to_agree_with(tmp_path, monkeypatch):
    model = ModelConfig(kind="decoder", num_numbers=64)
    run = lambda path: (TrainConfig(model=model), {})
    monkeypatch.setattr(checkpoint, "load_params", run)
    with pytest.raises(ValueError, match="'answer_agrees' needs a judge: m is a decod"):
        generate.write_chains(chains_config(filter="answer_agrees"), tmp_path / "own")
    assert not (tmp_path / "own").exists()  # the corrected command can use it


def test_invalid_configs_are_errors_before_the_directory_exists(tmp_path, monkeypatch):
    modulo = {"arithmetic": {"modulus": 5}, "edit_distance": {"max_extra": 2}}
    pairs = {"task": "edit_distance", "counts": {"4": 2}}
    run = TrainConfig(
        model=ModelConfig(kind="looped", num_numbers=64),
        evaluation=EvaluationConfig(options=modulo),
    )
    monkeypatch.setattr(checkpoint, "load_params", lambda path: (run, {}))
    sums = {"task": "arithmetic", "counts": {"4": 2}}
    for changes, message in (
        ({"counts": {"4": 0}}, "counts.4 must be 1 or more, got 0"),
        ({"counts": {"4": -5}}, "counts.4 must be 1 or more, got -5"),
        (
            {"counts": {"abc": 5}},
            "counts must map lengths to numbers of chains, as in {'5': 4000}, got the",
        ),
        ({"counts": {}}, "counts is empty; set the number of chains for each"),
        ({"counts": {"0": 2}}, "lis: lengths 0..0 are out of range"),
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"seed": -1}, "seed must be 0 to 4294967295, got -1"),
        ({"seed": 2**32}, "seed must be 0 to 4294967295, got 4294967296"),
        (
            sums | {"options": {"modulus": 7}},
            "options of arithmetic: modulus is 7, but m was trained with modulus=5; use",
        ),
        (
            pairs | {"options": {"border_cost": 1}},
            "border_cost is 1, but m was trained with border_cost=2; use the same value",
        ),
    ):
        with pytest.raises(ValueError) as error:
            generate.write_chains(chains_config(**changes), tmp_path / "chains")
        assert message in str(error.value)
    assert not (tmp_path / "chains").exists()
    for legitimate in (
        sums | {"options": {"modulus": 5, "right_heavy": True}},
        {"task": "edit_distance", "options": {"max_extra": 8}},
    ):
        generate.check_chains(chains_config(**legitimate), {"m": run})


def test_too_few_chains_are_an_error(tmp_path, looped, monkeypatch):
    nothing = lambda chains, *_: np.zeros(len(chains.is_correct), bool)
    monkeypatch.setitem(FILTERS, "oracle", nothing)
    config = chains_config(filter="oracle")
    with pytest.raises(
        ValueError, match=r"length 3: 0 of \d+ chains passed the filter 'ora"
    ):
        generate.write_chains(config, tmp_path)


def test_fewer_chains_may_be_allowed_but_training_needs_some(
    tmp_path, looped, monkeypatch, capsys
):
    def few(chains, *_):  # one of length 4 in every batch, none of length 3
        is_first = np.arange(len(chains.is_correct)) == 0
        return is_first & (chains.examples.length == 4)

    monkeypatch.setitem(FILTERS, "oracle", few)
    monkeypatch.setattr(generate, "MAX_TRIES", 2)
    counts = {"3": 8, "4": 8}
    config = chains_config(
        filter="oracle", allow_fewer=True, counts=counts, batch_size=8
    )
    share = generate.write_chains(config, tmp_path / "few")
    warnings = capsys.readouterr().err
    for length, expected in ((3, 0), (4, 3)):
        assert (
            f"lis, length {length}: {expected} of 24 chains passed the filter 'oracle', 8 "
            "are requested"
        ) in warnings
    assert share["kept_share"] == {3: 0, 4: 1 / 8}
    assert share["kept_chain_accuracy"] == {4: 1.0}
    task = TASKS["lis"](**LIS)
    assert len(read_chains(tmp_path / "few", task, (3, 3), 0)) == 0
    assert len(read_chains(tmp_path / "few", task, (3, 4), 0)) == 3

    few = {"kind": "chains", "path": "few", "options": LIS}
    none = BucketConfig("lis", (3, 3), **few)
    three = BucketConfig("lis", (3, 4), **few)
    late = BucketConfig("lis", (1, 2), options=LIS, start_share=0.5)
    learner = TrainConfig(model=ModelConfig(kind="decoder", num_numbers=64))

    def opened(**buckets):
        data = dataclasses.replace(learner.data, buckets=buckets)
        run = dataclasses.replace(learner, data=data)
        return open_buckets(run, tmp_path / "run")

    (bucket,) = opened(none=none, three=three)
    assert (len(bucket.source), bucket.weight) == (3, 3 / 16)  # few weigh little
    texts, _ = flatten(read_chains(tmp_path / "few", task, (3, 3), 0).examples, task)
    assert len(texts) == 0
    for buckets in ({"none": none}, {"none": none, "late": late}):
        with pytest.raises(
            ValueError, match=f"none of the buckets {', '.join(buckets)} has any"
        ):
            opened(**buckets)


def test_an_interrupted_length_is_resumed(tmp_path, looped, monkeypatch):
    """No problem is tried twice, and the result is the same."""
    keep_last(monkeypatch, 0.3)
    config = chains_config(filter="oracle", counts={"3": 9})
    generate.write_chains(config, tmp_path / "whole")
    monkeypatch.setattr(generate, "SAVE_SECONDS", -1)
    calls = []

    def stopped(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return perfect(*arguments)

    monkeypatch.setattr(chain_generator, "predict_looped", stopped)
    with pytest.raises(KeyboardInterrupt):
        generate.write_chains(config, tmp_path / "cut")
    files = sorted(file.name for file in (tmp_path / "cut").iterdir())
    assert files == [".lis_003.npz.part", "config.json"]
    generate.write_chains(config, tmp_path / "cut")
    assert not (tmp_path / "cut" / ".lis_003.npz.part").exists()
    ended = (tmp_path / "cut" / "lis_003.npz").read_bytes()
    assert ended == (tmp_path / "whole" / "lis_003.npz").read_bytes()
    problems = [arguments[3].problem.tobytes() for arguments in calls]
    assert len(problems) == len({*problems}) + 1  # that of the interrupted call


def test_a_directory_can_be_resumed_with_allow_fewer(tmp_path, looped):
    config = chains_config()
    generate.write_chains(config, tmp_path)
    same = dataclasses.replace(config, allow_fewer=True)
    assert run_dir.open_run(tmp_path, same) == epath.Path(tmp_path)


@pytest.fixture
def decoder(monkeypatch):
    """Takes the place of a decoder: all texts are true, but every third does not end."""

    def generate_texts(params, model, task, problems, batch_size):
        text, prompt = flatten(problems, task)
        column = np.arange(task.chain_size(int(problems.length.max())) + 3)
        index = np.minimum(prompt[:, None] + column, text.shape[1] - 1)
        tokens = np.take_along_axis(text, index, axis=1)
        tokens = np.where(column < column[-1], tokens, PAD)
        tokens[::3][tokens[::3] == EOS] = SEP
        return tokens, np.ones(len(tokens))

    model = ModelConfig(kind="decoder", num_numbers=64)
    monkeypatch.setattr(chain_generator, "generate_texts", generate_texts)
    run = lambda path: (TrainConfig(model=model), {})
    monkeypatch.setattr(checkpoint, "load_params", run)
    return model


@pytest.mark.parametrize("expected", ["none", "oracle"])
def test_a_chain_without_an_answer_never_passes(tmp_path, decoder, expected):
    config = chains_config(filter=expected, counts={"3": 8}, batch_size=12)
    share = generate.write_chains(config, tmp_path)
    assert share["unanswered_share"] == {3: 1 / 3} and share["kept_share"] == {3: 2 / 3}
    assert share["kept_chain_accuracy"] == {3: 1.0}
    saved_chains = read_chains(tmp_path, TASKS["lis"](**LIS), (3, 3), 0).take(
        np.arange(8)
    )
    assert (saved_chains.answer != PAD).all() and (saved_chains.rounds != PAD).any(
        axis=(1, 2)
    ).all()


def test_a_looped_model_cannot_learn_a_decoders_chains(tmp_path, decoder):
    generate.write_chains(chains_config(), tmp_path)
    bucket = BucketConfig("lis", (3, 4), kind="chains", path=str(tmp_path), options=LIS)
    learner = TrainConfig(model=decoder)
    assert len(open_bucket(bucket, learner, tmp_path / "run").source) == 7
    learner = TrainConfig(model=dataclasses.replace(decoder, kind="looped"))
    with pytest.raises(
        ValueError, match="a decoder generated these chains, each in one pi"
    ):
        open_bucket(bucket, learner, tmp_path / "run")


def test_reading_errors(tmp_path, looped):
    task = TASKS["lis"](**LIS)
    with pytest.raises(ValueError, match="has no finished chains; generate them with"):
        read_chains(tmp_path, task, (3, 4), 0)
    generate.write_chains(chains_config(), tmp_path)
    with pytest.raises(ValueError, match="has no chains of length 5, only of 3, 4"):
        read_chains(tmp_path, task, (3, 5), 0)
    with pytest.raises(ValueError, match="has chains of .*group=2.*, expected .*=10"):
        read_chains(tmp_path, TASKS["lis"](), (3, 4), 0)


@pytest.mark.parametrize("kind", ["flipped", "cut", "foreign", "empty"])
def test_a_damaged_file_is_named_with_its_remedy(tmp_path, looped, kind):
    first = generate.write_chains(chains_config(), tmp_path)
    file = tmp_path / "lis_004.npz"
    content = file.read_bytes()
    if kind == "foreign":
        np.savez(file, report=np.zeros(2, int), problem=np.zeros(1))
    elif kind == "flipped":
        middle = len(content) // 2
        flipped = bytes([content[middle] ^ 1])
        file.write_bytes(content[:middle] + flipped + content[middle + 1 :])
    else:
        file.write_bytes(content[: len(content) // 2] if kind == "cut" else b"")
    message = r"lis_004.npz cannot be read .* remove it and the summary.json beside it"
    with pytest.raises(ValueError, match=message):
        read_chains(tmp_path, TASKS["lis"](**LIS), (3, 4), 0)
    (tmp_path / "summary.json").unlink()
    if kind != "flipped":  # the flipped byte may be outside the counts
        with pytest.raises(ValueError, match=r"lis_004.npz .* remove it and the summ"):
            generate.write_chains(chains_config(), tmp_path)
    file.unlink()  # as the message suggests
    assert generate.write_chains(chains_config(), tmp_path).keys() == first.keys()
    assert len(read_chains(tmp_path, TASKS["lis"](**LIS), (3, 4), 0)) == 7


def test_any_flipped_byte_is_found_or_changes_nothing(tmp_path, looped):
    generate.write_chains(chains_config(), tmp_path)
    task, file = TASKS["lis"](**LIS), epath.Path(tmp_path) / "lis_003.npz"
    content, report = file.read_bytes(), read_counts(file)
    good = read_chains(tmp_path, task, (3, 3), 0).take(np.arange(5))
    for offset in range(0, len(content), 7):
        changed = bytes([content[offset] ^ 0x5A])
        file.write_bytes(content[:offset] + changed + content[offset + 1 :])
        try:
            saved_chains = read_chains(tmp_path, task, (3, 3), 0).take(np.arange(5))
            for old, new in zip((*good, report), (*saved_chains, read_counts(file))):
                np.testing.assert_array_equal(old, new)
        except ValueError as error:
            assert "remove it and the summary.json" in str(error)


def test_report_counts_before_and_after_the_filter(tmp_path, looped, monkeypatch):
    keep_last(monkeypatch, 0.5)
    generate.write_chains(chains_config(filter="oracle"), tmp_path)
    lines = list(files.read_lines(tmp_path / "records.jsonl"))
    share = {x["metric"]: x["value"] for x in lines if x["length"] == 3}
    assert share["chain_accuracy"] == share["kept_chain_accuracy"] == 1.0
    assert 0.4 < share["kept_share"] < 0.8


def test_shares_are_of_all_problems_tried(tmp_path, looped):
    """Though more are generated than requested, and the last are dropped."""
    generate.write_chains(chains_config(batch_size=64), tmp_path)
    lines = list(files.read_lines(tmp_path / "records.jsonl"))
    assert [x["value"] for x in lines if x["metric"] == "kept_share"] == [1.0, 1.0]
