"""HumanEval and MT-Bench with a small model: both tables, resumed, executed."""

import gzip
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from etils import epath

from experiments import humaneval, mtbench, qa_protocol, terminal
from relay_jax import config_io, files
from relay_jax.config import CorpusConfig, TrainConfig
from relay_jax.data.language_corpus import prepare_corpus
from relay_jax.rest import sandbox
from relay_jax.rest.completion import cut_completion
from relay_jax.training import checkpoint
from relay_jax.training.step import init_params
from tests.experiments.test_scripts import ROOT, refusal, script

DATA = pathlib.Path(__file__).parents[3] / "shared" / "data"
PROBLEM = {
    "task_id": "Made/0",
    "prompt": 'def double(x):\n    """Twice x."""\n',
    "entry_point": "double",
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(3) == 6\n",
}
try:
    sandbox.check()
    EXECUTE = ["--execute"]
except ValueError:  # this machine cannot isolate programs
    EXECUTE = []


def program_of(problem, text):
    return humaneval.program(problem, cut_completion(problem["prompt"], text))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory of an untrained code model, and the flags that name it."""
    path = tmp_path_factory.mktemp("run")
    code = path / "code"
    code.mkdir()
    for number in range(24):
        text = f"def function_{number}(x):\n    return x + {number}\n" * 20
        (code / f"{number}.py").write_text(text)
    prepare_corpus(CorpusConfig(str(code), held_out_one_in=4), 300, path)
    model = {"kind": "decoder", "num_layers": 1, "dim": 16, "mlp_dim": 16}
    values = {"model": model | {"text_vocab_size": 300}, "name": "tiny"}
    config = config_io.build(TrainConfig, values)
    checkpoint.save_params(path, config, init_params(config))
    return (
        f"--run={path}",
        "--drafter=prompt_lookup",
        "--num_draft=4",
        "--max_new_tokens=8",
    )


def test_humaneval_is_resumed_and_executed(run, tmp_path):
    problems = [PROBLEM | {"task_id": f"Made/{number}"} for number in range(3)]
    text = "\n".join(map(json.dumps, problems))
    (tmp_path / "data.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    data = f"--data={tmp_path}/data.jsonl.gz"
    arguments = *run, data, f"--workdir={tmp_path}/out"
    done = script("humaneval", *arguments, "--count=2")
    assert done.returncode == 0, done.stderr
    assert "plain                          1.00" in done.stdout
    assert "CodeLlama 7B, greedy: plain    1.00       27.89      1.00" in done.stdout
    assert "  REST                         2.65       11.82      2.36" in done.stdout
    file = tmp_path / "out" / "records.jsonl"
    before = file.read_text()
    assert len(before.splitlines()) == 2
    done = script("humaneval", *arguments, *EXECUTE)
    assert done.returncode == 0, done.stderr
    assert file.read_text().startswith(before)
    assert len(file.read_text().splitlines()) == 3
    assert "maximum number of tokens: 3 of 3, 3 of 3" in done.stdout
    if EXECUTE:
        assert "pass@1, prompt_lookup: 0.0% of 3; cut after the func" in done.stdout
        assert "cut at the maximum number of tokens: 3\n" in done.stdout
        lines = files.read_lines(tmp_path / "out" / "executed.jsonl")
        counted = files.read_json(tmp_path / "out" / "summary.json")["executed"]
        assert humaneval.summarize(list(lines)) == counted
        assert [line["unfinished"] for line in counted] == [3, 3]
    other = refusal("humaneval", *arguments, "--nucleus")
    assert "holds answers with --nucleus=False, not True; give another" in other
    other = refusal("humaneval", *arguments, "--draft_depth=3")
    assert "holds answers with --draft_depth=10, not 3; give another" in other


def test_mtbench_asks_two_turns(run, tmp_path):
    question = {"question_id": 81, "category": "writing", "turns": ["Write.", "Again."]}
    (tmp_path / "data.jsonl").write_text(json.dumps(question))
    data = f"--data={tmp_path}/data.jsonl"
    arguments = *run, data, f"--workdir={tmp_path}/out", "--nucleus"
    done = script("mtbench", *arguments)
    assert done.returncode == 0, done.stderr
    assert "Vicuna 13B, nucleus: plain     1.00       44.32      1.00" in done.stdout
    line = json.loads((tmp_path / "out" / "records.jsonl").read_text())
    assert len(line["turns"]) == 2 and line["category"] == "writing"
    (tmp_path / "data.jsonl").write_text("{}")
    message = refusal("mtbench", *run, data, f"--workdir={tmp_path}/new")
    assert "data.jsonl, line 1 is no question of MT-Bench" in message


def test_a_model_answers_in_its_own_format(run, tmp_path):
    """`chat` and `mtbench` take the folder's template, another one with --template."""
    folder = shutil.copytree(run[0].removeprefix("--run="), tmp_path / "run")
    named = f"--run={folder}"
    file = folder / "chat_template.jinja"
    file.write_text("{{ messages[0].content }}\n{{ raise_exception('not today') }}")
    refused = f"{file}, line 2: the chat template refuses the conversation: not today"
    assert refused in refusal("chat", *run, named, stdin="x\n")
    plain = script("chat", *run, stdin="x\n")
    assert f"{run[0][6:]} has no chat template: --template=plain" in plain.stderr
    file.write_text("{% for m in messages %}{{ m.role }} {{ m.content }}\n{% endfor %}")
    default = script("chat", *run, named, "--system=def", stdin="x\n")
    prompt = '{{ "system def\\nuser x\\n" }}'
    (tmp_path / "same.jinja").write_text(prompt)
    same = script("chat", *run, f"--template={tmp_path}/same.jinja", stdin="x\n")
    answers = [re.sub(r"\[.*\]", "", done.stdout) for done in (plain, default, same)]
    assert answers[0] != answers[1] == answers[2] and not default.stderr

    question = {"question_id": 81, "category": "writing", "turns": ["def", "x"]}
    (tmp_path / "data.jsonl").write_text(json.dumps(question))
    arguments = (
        *run,
        named,
        f"--data={tmp_path}/data.jsonl",
        f"--workdir={tmp_path}/out",
    )
    assert script("mtbench", *arguments).returncode == 0
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["template"] == "model"
    other = refusal("mtbench", *arguments, "--template=vicuna")
    assert "holds answers with --template=model, not vicuna; give another" in other


def test_a_chat_answers_every_line_and_reports_its_speed(run):
    lines = "def f\n\n/new\nclass\n/quit\nnever read\n"
    arguments = *run, "--template=llama2"
    done = script("chat", *arguments, stdin=lines)
    assert done.returncode == 0, done.stderr
    reports = re.findall(
        r"\[(\d+) tokens, [\d.]+ per second, M = ([\d.]+)\]", done.stdout
    )
    assert len(reports) == 2 and all(1 <= int(new) <= 8 for new, _ in reports)
    alone = script("chat", *arguments, "--drafter=none", stdin=lines)
    speed = re.compile(r"\[.*\]")
    assert speed.sub("", alone.stdout) == speed.sub("", done.stdout)


def test_a_chat_ends_when_the_context_of_its_model_is_full(run, tmp_path):
    shutil.copytree(run[0].removeprefix("--run="), tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    values = json.loads(file.read_text())
    values["model"]["context_length"] = 12
    file.write_text(json.dumps(values))
    lines = "x + 1\nx\n/new\n" + "function " * 20
    done = script("chat", *run, f"--run={tmp_path}/run", stdin=lines)
    assert done.returncode == 0, done.stderr
    assert "the 12 tokens that the model was made for are used up" in done.stdout
    expected = (
        r"with this question the conversation has \d+ tokens, but the model was made f"
    )
    assert re.search(expected, done.stdout)
    long = "--max_new_tokens=12", "--prompt=def f"
    done = script("generate", *run, f"--run={tmp_path}/run", *long)
    assert "more than the 12 that the model was made for" in done.stderr


# On a simulated clock reading a prompt takes an hour, and decoding between two outputs
# takes a second; Ctrl-C ends the first answer.
WATCHED = """
import types
from experiments import chat, command
from relay_jax.rest import request
clock, answers = [0.0], []
run, begin, advance = chat.run, request._begin, request._advance
request.time = types.SimpleNamespace(perf_counter=lambda: clock[0])

def begin_slowly(*args):
    clock[0] += 3600
    return begin(*args)

def advance_slowly(*args):
    clock[0] += 1
    return advance(*args)

def watched(*args):
    answers.append(args)
    for number, output in enumerate(run(*args)):
        yield output
        if number == 1 and len(answers) == 1:
            raise KeyboardInterrupt

chat.run, request._begin, request._advance = watched, begin_slowly, advance_slowly
command.run(chat.main)
"""


def test_ctrl_c_ends_an_answer_and_decoding_alone_is_timed(run, tmp_path):
    (tmp_path / "watched.py").write_text(WATCHED)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "watched.py"), *run],
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        input="def f\nclass\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(" [ended]") == 1
    reports = re.findall(r"\[(\d+) tokens, ([\d.]+) per second", done.stdout)
    assert len(reports) == 2
    assert all(float(rate) >= int(new) / 4 for new, rate in reports)


def test_the_table_distinguishes_a_drafter_without_drafts_from_plain_decoding():
    common = {"num_draft": 0, "M": 1.0, "ms_per_token": 2.0, "speed_up": 1.0}
    common |= {"autotuned": False}
    total = [common | {"drafter": name, "same_texts": 1.0} for name in ("none", "rest")]
    rows = qa_protocol.make_table(total, ()).splitlines()
    assert rows[1].startswith("plain  ") and rows[2].startswith("rest (0 nodes)  ")


def test_a_completion_ends_where_the_function_ends():
    program = program_of(PROBLEM, "    return 2 * x\n\nprint(double(1))\n")
    assert "print" not in program and program.endswith("check(double)")
    assert compile(program, "program", "exec")


def test_cut_and_failed_completions_are_counted():
    common = {"drafter": "rest", "finish_reason": "stop"}
    results = [
        common | {"result": "passed", "cut_characters": 9},
        common | {"result": "NameError: x", "cut_characters": 0},
        common | {"result": "passed", "cut_characters": 5, "finish_reason": "length"},
        common | {"result": "passed", "cut_characters": 0, "drafter": "none"},
    ]
    counts = {"completions": 3, "passed": 2, "cut": 2, "cut_characters": 14}
    alone = dict.fromkeys(counts, 0) | {"completions": 1, "passed": 1}
    assert humaneval.summarize(results) == [
        {"drafter": "rest"} | counts | {"unfinished": 1},
        {"drafter": "none"} | alone | {"unfinished": 0},
    ]


def test_the_lines_of_a_chat(monkeypatch, caplog):
    content = b"\xef\xbb\xbfone\r\n\n \ntw\x0co\rx\ncaf\xe9 \xe2\x80\xa8y\n/quit"
    stream = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stream)
    lines = [terminal.read_line() for _ in range(5)]
    assert lines == ["one", "tw\x0co\rx", "caf\ufffd \u2028y", "/quit", None]
    assert (
        "standard input: char" in caplog.text and "first of them b'caf" in caplog.text
    )


def test_an_id_that_occurs_twice_is_said(tmp_path, caplog):
    file = epath.Path(tmp_path / "a.jsonl")
    file.write_text(f"{GOOD['question']}\n" * 2)
    assert len(mtbench.read_questions(file)) == 1
    file.write_text(f"{GOOD['problem']}\n" * 2)
    assert len(humaneval.read_problems(file)) == 1
    assert "line 2 is left out" in caplog.text and "line 2 replaces" in caplog.text


def test_the_original_problems_pass_with_the_canonical_solutions():
    file = DATA / "HumanEval.jsonl.gz"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    problems = humaneval.read_problems(epath.Path(file))
    assert len(problems) == 164
    if not EXECUTE:
        pytest.skip("this machine cannot shut programs in")
    for problem in list(problems.values())[::20]:
        program = program_of(problem, problem["canonical_solution"])
        assert sandbox.run(program) == "passed", problem["task_id"]


GOOD = {
    "problem": json.dumps(PROBLEM),
    "question": '{"question_id": 81, "category": "writing", "turns": ["a", "b"]}',
}


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        ("problem", "[1]", "line 2: not a JSON object"),
        ("question", "[1]", "line 2: not a JSON object"),
        ("problem", GOOD["problem"][:-9], "line 2: not JSON"),
        ("question", GOOD["question"][:-9], "line 2: not JSON"),
        (
            "problem",
            '{"task_id": 1}',
            "line 2 is no problem .* no text under 'task_id'",
        ),
        (
            "question",
            GOOD["question"].replace('["a", "b"]', '"ab"'),
            "line 2 is no question of MT-Bench: .* a list of texts under 'turns'",
        ),
        ("question", GOOD["question"].replace('"b"', "2"), "line 2 is no question"),
    ],
)
def test_a_wrong_line_of_a_benchmark_is_named(kind, wrong, message, tmp_path):
    read = {"problem": humaneval.read_problems, "question": mtbench.read_questions}
    text = f"{GOOD[kind]}\n{wrong}"
    file, packed = epath.Path(tmp_path / "a.jsonl"), epath.Path(tmp_path / "b.jsonl.gz")
    for path, content in (
        (file, text.encode()),
        (packed, gzip.compress(text.encode())),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path.name}, {message}"):
            read[kind](path)
    packed.write_bytes(packed.read_bytes()[:-12])
    with pytest.raises(ValueError, match="b.jsonl.gz cannot be read|line 2"):
        read[kind](packed)


def test_the_original_questions_are_read():
    file = DATA / "mt_bench_questions.jsonl"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    questions = mtbench.read_questions(epath.Path(file))
    assert len(questions) == 80 and all(len(each.turns) == 2 for each in questions)
    assert mtbench.PROTOCOL.max_new_tokens == 1024
