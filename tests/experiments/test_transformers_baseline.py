"""transformers beside our decoders, on a tiny random model."""

import importlib.util

import pytest

from experiments.benchmarks import transformers_model
from relay_jax import files
from tests import tiny_hf_model
from tests.experiments.test_scripts import refusal, script

GREEDY, LOOKUP = "transformers", "transformers_prompt_lookup"
OURS = ["plain", "prompt_lookup", "rest_paper", "rest", "auto"]


def test_a_missing_torch_ends_in_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = "torch is not installed: pip install -r launch/locks/oracle.txt"
    with pytest.raises(ValueError, match=f"^{message}$"):
        transformers_model.check_installed()


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [
        ([1, 2, 3], [1, 5, 6], (1, 2, 5)),
        ([1, 2], [1, 2, 3], (2, None, 3)),
        ([1, 2, 3], [1], (1, 2, None)),
    ],
)
def test_the_first_difference(ours, theirs, expected):
    assert transformers_model.first_difference(ours, theirs) == expected


def test_texts_are_those_of_transformers(tmp_path):
    pytest.importorskip("transformers", reason="the baseline is transformers")
    model = tiny_hf_model.write_model(tmp_path / "tiny")
    problems = tiny_hf_model.write_problems(tmp_path / "problems.jsonl")
    corpus = tiny_hf_model.write_corpus(tmp_path / "corpus")
    store = f"--datastore={tmp_path}/store"
    done = script("build_datastore", store, f"--files={corpus}", f"--tokenizer={model}")
    assert done.returncode == 0, done.stderr
    arguments = [
        *(f"--run={model}", store, f"--problems={problems}", "--count=2"),
        *("--max_new_tokens=16", "--num_draft=4", f"--workdir={tmp_path}/out"),
    ]
    done = script("benchmarks.transformers_baseline", *arguments)
    assert done.returncode == 0, done.stderr
    records = list(files.read_lines(tmp_path / "out" / "records.jsonl"))
    assert [line["decoder"] for line in records] == [GREEDY, LOOKUP, *OURS]
    for line in records:
        assert line["same_texts"] == 1 and line["differences"] == []
        assert line["new_tokens"] == records[0]["new_tokens"] and line["M"] >= 1
        assert line["over_prompt_lookup"] > 0 and line["torch"]
    assert records[0]["M"] == records[2]["M"] == 1.0 == records[0]["speed_up"]
    assert "2 of 2" in done.stdout

    # A text that is another one: with the gap between both tokens.
    texts = list(files.read_lines(tmp_path / "out" / "texts.jsonl"))
    plain = next(line for line in texts if line["decoder"] == "plain")
    plain["token_ids"][3] = (plain["token_ids"][3] + 1) % 300
    files.write_lines(tmp_path / "out" / "texts.jsonl", texts)
    done = script("benchmarks.transformers_baseline", *arguments)
    assert done.returncode == 0, done.stderr
    changed = list(files.read_lines(tmp_path / "out" / "records.jsonl"))[2]
    (difference,) = changed["differences"]
    assert (difference["prompt"], difference["position"]) == (plain["prompt"], 3)
    assert difference["gap"] > 0 and changed["same_texts"] == 0.5
    assert f"plain differs at {plain['prompt']}, token 3: gap " in done.stdout

    message = refusal(
        "benchmarks.transformers_baseline", f"--run={tmp_path}/none", *arguments[1:]
    )
    assert "/none is not a Hugging Face folder, which transformers reads; " in message
    message = refusal(
        *("benchmarks.transformers_baseline", *arguments[:2]),
        *("--problems=/no/such.jsonl", arguments[-1]),
    )
    assert message == "error: --problems: /no/such.jsonl does not exist"
