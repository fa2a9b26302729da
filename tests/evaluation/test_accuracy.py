"""Scores of known predictions, records, table and figures."""

import numpy as np
import pytest

from relay_jax import files
from relay_jax.config import ModelConfig, TrainConfig
from relay_jax.data.alignment import flatten, right_align
from relay_jax.evaluation import accuracy, figures, predict
from relay_jax.evaluation.predict import Predictions
from relay_jax.evaluation.report import make_table
from relay_jax.tasks import TASKS
from relay_jax.training.step import init_params
from relay_jax.vocabulary import EOS, PAD

TASK = TASKS["edit_distance"]()
EXAMPLES = TASK.sample(np.random.default_rng(0), np.array([2, 3, 3, 3]))
COMMON = {"run": "r", "task": "edit_distance", "model": "ar", "seed": 0}


def score_of(predictions, monkeypatch):
    monkeypatch.setitem(accuracy.PREDICTORS, "looped", lambda *_: predictions)
    return accuracy.score({}, ModelConfig(kind="looped"), TASK, EXAMPLES, 4)


def true_predictions():
    width = EXAMPLES.rounds.shape[-1] + 1
    rounds = right_align(EXAMPLES.rounds, width)
    return Predictions(EXAMPLES.answer.copy(), rounds.copy(), np.ones(4))


def test_one_wrong_token_makes_its_chain_and_its_round_wrong(monkeypatch):
    predicted = true_predictions()
    assert score_of(predicted, monkeypatch).chain.all()
    predicted.rounds[2, 1, -2] = 60
    scored = score_of(predicted, monkeypatch)
    np.testing.assert_array_equal(scored.chain, [True, True, False, True])
    assert scored.answer.all()
    np.testing.assert_allclose(accuracy.round_accuracy(scored), [1, 3 / 4, 1])
    matrix = accuracy.hit_matrix(scored)
    assert matrix[1, -2] == 3 / 4
    assert np.nanmin(np.delete(matrix.ravel(), matrix.shape[1] * 2 - 2)) == 1.0
    assert np.isnan(matrix[:, 0]).all()


def test_an_extra_token_on_the_left_makes_the_chain_wrong(monkeypatch):
    predicted = true_predictions()
    blank = np.argmax(predicted.rounds[0, 0] != PAD) - 1
    predicted.rounds[0, 0, blank] = 50
    scored = score_of(predicted, monkeypatch)
    assert not scored.chain[0] and scored.hits[0].sum() == scored.is_token[0].sum()
    np.testing.assert_allclose(accuracy.round_accuracy(scored), [3 / 4, 1, 1])


def test_decoder_text_is_split_into_the_true_rounds(monkeypatch):
    text, prompt = flatten(EXAMPLES, TASK)
    room = text.shape[1]
    tokens = np.full((4, room), PAD)
    for row in range(4):
        chain = text[row, prompt[row] :]
        tokens[row, : len(chain)] = chain
    tokens[1, 0] += 1  # a wrong number
    end = np.argmax(tokens[2] == EOS)
    tokens[2, end : end + 2] = tokens[2, end - 1], EOS  # an extra token
    tokens[3, np.argmax(tokens[3] == EOS)] = PAD  # never ends
    monkeypatch.setattr(predict, "generate_texts", lambda *_: (tokens, np.ones(4)))
    model = ModelConfig(kind="decoder")
    scored = accuracy.score({}, model, TASK, EXAMPLES, 4)
    np.testing.assert_array_equal(scored.chain, [True, False, False, False])
    np.testing.assert_array_equal(scored.answer, [True, True, True, False])
    missed = (scored.is_token & ~scored.hits).sum(axis=(1, 2))
    np.testing.assert_array_equal(missed, [0, 1, 0, 0])
    # Rows 2 and 3, of three rounds, go wrong after the last one.
    np.testing.assert_allclose(accuracy.round_accuracy(scored), [3 / 4, 1, 1 / 3])


def test_a_decoders_text_does_not_depend_on_longer_problems():
    task = TASKS["arithmetic"](modulus=5)
    model = ModelConfig(
        kind="decoder", num_layers=1, dim=16, mlp_dim=16, num_heads=2, num_numbers=8
    )
    params = init_params(
        TrainConfig(model=model)
    )  # untrained: it rarely predicts <eos>
    alone, beside = (
        predict.generate_texts(
            *(params, model, task),
            accuracy.test_problems(task, lengths, 4, 0, final=False),
            batch_size=8,
        )[0]
        for lengths in ([2], [2, 4])
    )
    assert (alone[:, -1] != PAD).any()
    np.testing.assert_array_equal(beside[:4, : alone.shape[1]], alone)
    assert (beside[:4, alone.shape[1] :] == PAD).all() and beside[4:, -1].any()


def test_final_test_problems_differ_from_those_during_training():
    during, final = (
        accuracy.test_problems(TASK, [4, 5], 20, 0, final=f) for f in (False, True)
    )
    np.testing.assert_array_equal(during.length, [4] * 20 + [5] * 20)
    width = min(during.problem.shape[1], final.problem.shape[1])
    both = np.concatenate([during.problem[:, :width], final.problem[:, :width]])
    assert len(np.unique(both, axis=0)) == 80


def make_lines(monkeypatch):
    predicted = true_predictions()
    predicted.rounds[2, 1, -2] = 60
    scored = score_of(predicted, monkeypatch)
    return accuracy.make_records(scored, COMMON, [2, 3])


def test_records_table_and_figures(tmp_path, monkeypatch):
    lines = make_lines(monkeypatch)
    whole = {(x["length"], x["metric"]): x for x in lines if "round" not in x}
    assert whole[3, "chain_accuracy"]["value"] == pytest.approx(2 / 3)
    assert whole[3, "chain_accuracy"]["count"] == 3
    assert all(set(files.FIELDS) <= set(line) for line in lines)

    table = make_table(lines, "edit_distance", "chain_accuracy").splitlines()
    assert table[1].split() == ["2", "3"]
    assert table[2].split() == ["ar", "1.000", "0.667"]

    files.write_lines(tmp_path / "records.jsonl", lines)
    again = list(files.read_lines(tmp_path / "records.jsonl"))
    assert again == lines
    figures.accuracy_by_length(again, "answer_accuracy", tmp_path / "f" / "a.png")
    figures.hit_matrices(again, "edit_distance", 3, tmp_path / "f" / "h.png")
    for file in (tmp_path / "f").iterdir():
        assert file.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no hit_accuracy record of lis at length 9"):
        figures.hit_matrices(again, "lis", 9, tmp_path / "x.png")


def test_columns_count_from_the_right_among_examples_that_have_them(monkeypatch):
    hits = {
        (x["length"], x["round"], x["position"]): (x["value"], x["count"])
        for x in make_lines(monkeypatch)
        if x["metric"] == "hit_accuracy"
    }
    is_token = EXAMPLES.rounds[1:] != PAD  # of the three problems of length 3
    for t in range(3):
        sizes = is_token[:, t].sum(axis=-1)
        for column in range(sizes.max()):
            have = int((sizes > column).sum())
            wrong = (t, column) == (1, 1)  # of one problem
            assert hits[3, t, column] == ((have - wrong) / have, have)
        assert (3, t, sizes.max()) not in hits


def test_seeds_of_a_hit_matrix_are_weighted_by_their_examples():
    columns = [(0, 0, 1.0, 4), (0, 1, 1.0, 3), (0, 0, 0.5, 4), (0, 1, 0.0, 1)]
    lines = [
        {"round": t, "position": column, "value": value, "count": count}
        for t, column, value, count in columns
    ]
    expected = [[np.nan, 3 / 4, 3 / 4], [np.nan] * 3]
    np.testing.assert_array_equal(figures._hit_matrix(lines, 2, 3), expected)


def test_the_longest_problems_with_detailed_records_are_drawn(tmp_path, monkeypatch):
    lines = make_lines(monkeypatch)
    figures.longest_hit_matrices(lines, tmp_path / "hit_matrix")
    assert [f.name for f in tmp_path.iterdir()] == ["hit_matrix_edit_distance_3.png"]
    whole = [line for line in lines if line["metric"] not in accuracy.DETAILS]
    figures.longest_hit_matrices(whole, tmp_path / "none")
    assert len(list(tmp_path.iterdir())) == 1
    assert {line["metric"] for line in whole} == set(figures.TITLES)


def test_a_figure_shows_only_the_last_phase_of_a_model():
    phases = [f"ar_self_oracle_{n}" for n in (1, 10, 9)]
    assert figures._last_phases(["ar", *phases, "own"]) == [
        "ar",
        "ar_self_oracle_10",
        "own",
    ]
    assert figures._label("ar_self_oracle_10") == (
        "AR-CoT fine-tuned on own chains with true answers, 10 phases"
    )
    assert figures._label("ar") == "AR-CoT" and figures._label("own") == "own"


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert list(files.read_lines(file)) == [{"step": 1}, {"step": 2}]
    files.drop_lines_after(file, 1)
    assert file.read_text() == '{"step": 1}\n'
    file.write_text('{"st\n{"step": 2}\n')
    with pytest.raises(ValueError, match="line 1: not JSON"):
        list(files.read_lines(file))
