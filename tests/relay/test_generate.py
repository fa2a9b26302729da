"""Stage II: writing, filtering, storing and learning chains."""

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
from relay_jax.data import loader
from relay_jax.data.alignment import flatten
from relay_jax.data.chain_files import read_chains, read_report
from relay_jax.evaluation.predict import Predictions
from relay_jax.relay import generate
from relay_jax.relay.generate import FILTERS, GeneratedChains
from relay_jax.tasks import TASKS
from relay_jax.training import checkpoint
from relay_jax.vocabulary import EOS, PAD, SEP

LIS = {"group": 2, "smallest": 10, "number_range": 20}


def perfect(task):
    """A stand-in for a looped model that never errs, and knows only the problem."""

    def say(params, model, task_, given, batch_size):
        from relay_jax.data.alignment import right_align

        width = given.rounds.shape[-1] + 2
        confidence = np.linspace(0.0, 1.0, len(given.answer))
        return Predictions(given.answer, right_align(given.rounds, width), confidence)

    return say


@pytest.fixture
def writer(monkeypatch):
    model = ModelConfig(kind="looped", num_numbers=64)
    monkeypatch.setattr(generate, "looped_chains", perfect(None))
    monkeypatch.setattr(
        checkpoint, "load_params", lambda run: (TrainConfig(model=model), {})
    )
    return model


def chains_config(**changes):
    values = {"task": "lis", "options": LIS, "model": "m", "counts": {"3": 5, "4": 2}}
    return config_io.build(ChainsConfig, values | {"batch_size": 4} | changes)


def test_written_chains_become_a_source(tmp_path, writer):
    share = generate.write_chains(chains_config(), tmp_path / "chains")
    assert share["chain_accuracy"] == {3: 1.0, 4: 1.0}
    task = TASKS["lis"](**LIS)
    config = TrainConfig(model=ModelConfig(kind="decoder", num_numbers=64))
    bucket = BucketConfig("lis", (3, 4), kind="chains", path="chains", options=LIS)
    opened = loader.open_bucket(bucket, config, tmp_path / "run")
    held = opened.source
    assert len(held) == 7
    made = held.take(np.arange(7))
    assert sorted(made.length.tolist()) == [3] * 5 + [4] * 2
    for i in range(7):  # solving the problem again gives the same chain and answer
        numbers = made.problem[i][made.problem[i] > 5] - 41
        values = [1] * len(numbers)
        for a in range(len(numbers)):
            for b in range(a):
                if numbers[b] < numbers[a]:
                    values[a] = max(values[a], values[b] + 1)
        assert made.answer[i] == 41 + max(values)
        text, _ = flatten(type(made)(*(part[i : i + 1] for part in made)), task)
        assert (text[0] != 0).sum() == len(numbers) + 2 + 3 * 2 + 2


def test_chains_are_written_once_and_not_for_another_config(tmp_path, writer):
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
    right = np.array([True, False, True, False])
    given = TASKS["lis"](**LIS).sample(np.random.default_rng(0), np.full(4, 3))
    answer = np.where(right, given.answer, given.answer + 1)
    written = GeneratedChains(
        given._replace(answer=answer),
        confidence=np.array([0.95, 0.95, 0.5, 0.9]),
        chain_answer=np.where([True, True, False, True], answer, 0),
        head_answer=answer,
        is_right=right,
    )

    def kept(name):
        config = chains_config(filter=name)
        return FILTERS[name](written, given, None, None, config).tolist()

    assert kept("none") == [True, True, True, True]
    assert kept("answer_agrees") == [True, True, False, True]
    assert kept("confidence") == [True, True, False, True]
    assert kept("oracle") == [True, False, True, False]


def test_two_that_say_nothing_do_not_agree(monkeypatch):
    task = TASKS["lis"](**LIS)
    given = task.sample(np.random.default_rng(0), np.full(4, 3))
    answer = np.where([True, True, False, False], given.answer, 0)  # <pad>: no answer
    said = GeneratedChains(
        given._replace(answer=answer), answer, answer, answer, answer > 0
    )
    monkeypatch.setattr(generate, "generate", lambda *arguments: said)
    judge = generate.Writer(ModelConfig(kind="decoder", num_numbers=64), {})
    for each in (judge, None):
        kept = FILTERS["answer_agrees"](said, given, each, task, chains_config())
        assert kept.tolist() == [True, True, False, False]


@pytest.mark.parametrize("name", TASKS)
def test_an_answer_that_its_chain_does_not_give_is_found(name, monkeypatch):
    """Right rounds, wrong answers of the head: by way of what the model says."""
    task = TASKS[name](**(LIS if name == "lis" else {}))
    given = task.sample(np.random.default_rng(0), np.full(6, 3))
    wrong = np.arange(6) < 2
    say = perfect(task)

    def errs(*arguments):
        said = say(*arguments)
        return said._replace(answer=said.answer + wrong)

    monkeypatch.setattr(generate, "looped_chains", errs)
    writer = generate.Writer(ModelConfig(kind="looped", num_numbers=64), {})
    written = generate.generate(writer, task, given, 4)
    config = chains_config(filter="answer_agrees")
    kept = FILTERS["answer_agrees"](written, given, None, task, config)
    np.testing.assert_array_equal(kept, ~wrong)
    true = FILTERS["oracle"](written, given, None, task, config)
    if task.answer_in_chain:  # the head's answer is not written down
        assert written.is_right.all() and true.all()
    else:
        np.testing.assert_array_equal(written.is_right, ~wrong)
        np.testing.assert_array_equal(true, ~wrong)


def test_a_decoder_has_no_answer_of_its_own_to_agree_with(tmp_path, monkeypatch):
    model = ModelConfig(kind="decoder", num_numbers=64)
    run = lambda path: (TrainConfig(model=model), {})
    monkeypatch.setattr(checkpoint, "load_params", run)
    with pytest.raises(ValueError, match="'answer_agrees' needs a judge: m is a decod"):
        generate.write_chains(chains_config(filter="answer_agrees"), tmp_path / "own")
    assert not (tmp_path / "own").exists()  # the corrected command can use it


def test_what_cannot_work_is_refused_before_the_directory_is_made(
    tmp_path, monkeypatch
):
    modulo = {"arithmetic": {"modulus": 5}, "edit_distance": {"max_extra": 2}}
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
            "counts must name lengths, as in {'5': 4000}, got 'abc",
        ),
        ({"counts": {}}, "counts is empty; say how many chains, {'5': 4000}"),
        ({"counts": {"0": 2}}, "lis: lengths 0..0 are out of range"),
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"confidence": 2.0}, "confidence must be 0 to 1, got 2.0"),
        ({"seed": -1}, "seed must be 0 to 4294967295, got -1"),
        ({"seed": 2**32}, "seed must be 0 to 4294967295, got 4294967296"),
        (
            sums | {"options": {"modulus": 7}},
            "options of arithmetic: modulus is 7, but m has learnt modulus 5; give the",
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


def test_a_filter_that_keeps_too_little_is_an_error(tmp_path, writer, monkeypatch):
    nothing = lambda written, *_: np.zeros(len(written.is_right), bool)
    monkeypatch.setitem(FILTERS, "confidence", nothing)
    config = chains_config(filter="confidence")
    with pytest.raises(
        ValueError, match=r"length 3: the filter 'confidence' kept 0 of"
    ):
        generate.write_chains(config, tmp_path)


def test_fewer_chains_will_do_and_none_is_nothing_to_train_on(
    tmp_path, writer, monkeypatch, capsys
):
    def few(written, *_):  # one of length 4 in every batch, none of length 3
        is_first = np.arange(len(written.is_right)) == 0
        return is_first & (written.examples.length == 4)

    monkeypatch.setitem(FILTERS, "confidence", few)
    monkeypatch.setattr(generate, "MAX_TRIES", 2)
    counts = {"3": 8, "4": 8}
    config = chains_config(
        filter="confidence", allow_fewer=True, counts=counts, batch_size=8
    )
    share = generate.write_chains(config, tmp_path / "few")
    told = capsys.readouterr().err
    for length, kept in ((3, 0), (4, 3)):
        assert (
            f"lis, length {length}: the filter 'confidence' kept {kept} of 24 "
            "chains, 8 are wanted"
        ) in told
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
        return loader.open_buckets(run, tmp_path / "run")

    (bucket,) = opened(none=none, three=three)
    assert (len(bucket.source), bucket.weight) == (3, 3 / 16)  # few weigh little
    texts, _ = flatten(read_chains(tmp_path / "few", task, (3, 3), 0).examples, task)
    assert len(texts) == 0
    for buckets in ({"none": none}, {"none": none, "late": late}):
        with pytest.raises(
            ValueError, match=f"none of the buckets {', '.join(buckets)}"
        ):
            opened(**buckets)


def test_an_interrupted_length_goes_on(tmp_path, writer, monkeypatch):
    """What was tried before is not tried again, and the end is the same."""
    config = chains_config(filter="confidence", confidence=0.7, counts={"3": 9})
    generate.write_chains(config, tmp_path / "whole")
    monkeypatch.setattr(generate, "SAVE_SECONDS", -1)
    say, calls = generate.looped_chains, []

    def stopped(*given):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return say(*given)

    monkeypatch.setattr(generate, "looped_chains", stopped)
    with pytest.raises(KeyboardInterrupt):
        generate.write_chains(config, tmp_path / "cut")
    files = sorted(file.name for file in (tmp_path / "cut").iterdir())
    assert files == [".lis_003.npz.part", "config.json"]
    generate.write_chains(config, tmp_path / "cut")
    assert not (tmp_path / "cut" / ".lis_003.npz.part").exists()
    ended = (tmp_path / "cut" / "lis_003.npz").read_bytes()
    assert ended == (tmp_path / "whole" / "lis_003.npz").read_bytes()
    problems = [given[3].problem.tobytes() for given in calls]
    assert len(problems) == len({*problems}) + 1  # that of the interrupted call


def test_a_directory_goes_on_where_fewer_will_do(tmp_path, writer):
    config = chains_config()
    generate.write_chains(config, tmp_path)
    same = dataclasses.replace(config, allow_fewer=True)
    assert checkpoint.open_run(tmp_path, same) == epath.Path(tmp_path)


@pytest.fixture
def decoder(monkeypatch):
    """A stand-in for a decoder that never errs, but every third text does not end."""

    def say(params, model, task, given, batch_size):
        text, prompt = flatten(given, task)
        room = np.arange(task.chain_size(int(given.length.max())) + 3)
        place = np.minimum(prompt[:, None] + room, text.shape[1] - 1)
        tokens = np.where(room < room[-1], np.take_along_axis(text, place, 1), PAD)
        tokens[::3][tokens[::3] == EOS] = SEP
        return tokens, np.ones(len(tokens))

    model = ModelConfig(kind="decoder", num_numbers=64)
    monkeypatch.setattr(generate, "decoder_texts", say)
    run = lambda path: (TrainConfig(model=model), {})
    monkeypatch.setattr(checkpoint, "load_params", run)
    return model


@pytest.mark.parametrize("kept", ["none", "confidence"])
def test_a_chain_without_an_answer_is_never_kept(tmp_path, decoder, kept):
    config = chains_config(filter=kept, counts={"3": 8}, batch_size=12)
    share = generate.write_chains(config, tmp_path)
    assert share["unanswered_share"] == {3: 1 / 3} and share["kept_share"] == {3: 2 / 3}
    assert share["kept_chain_accuracy"] == {3: 1.0}
    held = read_chains(tmp_path, TASKS["lis"](**LIS), (3, 3), 0).take(np.arange(8))
    assert (held.answer != PAD).all() and (held.rounds != PAD).any(axis=(1, 2)).all()


def test_a_looped_model_does_not_learn_what_a_decoder_wrote(tmp_path, decoder):
    generate.write_chains(chains_config(), tmp_path)
    bucket = BucketConfig("lis", (3, 4), kind="chains", path=str(tmp_path), options=LIS)
    learner = TrainConfig(model=decoder)
    assert len(loader.open_bucket(bucket, learner, tmp_path / "run").source) == 7
    learner = TrainConfig(model=dataclasses.replace(decoder, kind="looped"))
    with pytest.raises(
        ValueError, match="a decoder wrote these chains, each in one pi"
    ):
        loader.open_bucket(bucket, learner, tmp_path / "run")


def test_reading_errors(tmp_path, writer):
    task = TASKS["lis"](**LIS)
    with pytest.raises(ValueError, match="holds no finished chains; write them with"):
        read_chains(tmp_path, task, (3, 4), 0)
    generate.write_chains(chains_config(), tmp_path)
    with pytest.raises(ValueError, match="has no chains of length 5; it has 3, 4"):
        read_chains(tmp_path, task, (3, 5), 0)
    with pytest.raises(ValueError, match="holds chains of .*group=2.*, expected .*=10"):
        read_chains(tmp_path, TASKS["lis"](), (3, 4), 0)


@pytest.mark.parametrize("kind", ["flipped", "cut", "foreign", "empty"])
def test_a_damaged_file_is_named_with_its_remedy(tmp_path, writer, kind):
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
    if kind != "flipped":  # the flipped byte may lie outside the counts
        with pytest.raises(ValueError, match=r"lis_004.npz .* remove it and the summ"):
            generate.write_chains(chains_config(), tmp_path)
    file.unlink()  # what the message says
    assert generate.write_chains(chains_config(), tmp_path).keys() == first.keys()
    assert len(read_chains(tmp_path, TASKS["lis"](**LIS), (3, 4), 0)) == 7


def test_any_flipped_byte_is_found_or_changes_nothing(tmp_path, writer):
    generate.write_chains(chains_config(), tmp_path)
    task, file = TASKS["lis"](**LIS), epath.Path(tmp_path) / "lis_003.npz"
    content, report = file.read_bytes(), read_report(file)
    good = read_chains(tmp_path, task, (3, 3), 0).take(np.arange(5))
    for place in range(0, len(content), 7):
        changed = bytes([content[place] ^ 0x5A])
        file.write_bytes(content[:place] + changed + content[place + 1 :])
        try:
            held = read_chains(tmp_path, task, (3, 3), 0).take(np.arange(5))
            for old, new in zip((*good, report), (*held, read_report(file))):
                np.testing.assert_array_equal(old, new)
        except ValueError as error:
            assert "remove it and the summary.json" in str(error)


def test_report_counts_before_and_after_the_filter(tmp_path, writer):
    generate.write_chains(chains_config(filter="confidence", confidence=0.5), tmp_path)
    lines = list(files.read_lines(tmp_path / "records.jsonl"))
    share = {x["metric"]: x["value"] for x in lines if x["length"] == 3}
    assert share["chain_accuracy"] == share["kept_chain_accuracy"] == 1.0
    assert 0.4 < share["kept_share"] < 0.8


def test_shares_are_of_all_that_was_tried(tmp_path, writer):
    """Though more are written than are wanted, and the last are thrown away."""
    generate.write_chains(chains_config(batch_size=64), tmp_path)
    lines = list(files.read_lines(tmp_path / "records.jsonl"))
    assert [x["value"] for x in lines if x["metric"] == "kept_share"] == [1.0, 1.0]
