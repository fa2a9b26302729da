"""Every command of README.md and docs/ is run, or it is said why not.

They run as they are documented, in a directory that has a small file for each
placeholder and a small config for each config; `RUNS` and `SLOW_RUNS` append the flags
that keep them short. Of the other commands the flags are parsed.
"""

import dataclasses
import gzip
import importlib.util
import json
import os
import subprocess
import sys

import pytest

from relay_jax.config import TrainConfig
from relay_jax.data.language_corpus import train_tokenizer
from relay_jax.models import hf_weights
from relay_jax.training.step import init_params
from tests import gguf_files, small_configs, tiny_hf_model
from tests.pages import ROOT, all_commands, commands, script_of
from tests.processes import DEVICES
from tests.script_server import run_script

BASELINE = "" if importlib.util.find_spec("torch") else "--nobaseline"
FEW = "--max_new_tokens=8 --num_draft=4"
DRAFTERS = "--max_new_tokens=8 --prompt_tokens=32 --count=1 --repeats=1"
# Commands that use the same files, in their order. The key has the script and parts of
# the command, the value flags to append; the first key that fits a command counts.
RUNS = {
    "published_models": {
        "build_datastore code.model --files=": "",
        "build_datastore code.model --jsonl=": "--overwrite",
        "build_datastore --recipe=the_stack_small": "--overwrite",
        "build_datastore --recipe=ultrachat": "",
        "replay --make": "",
        "replay --datastore=STORE": "--timed_calls=5",
        "humaneval --data=HumanEval.jsonl.gz": "--max_new_tokens=8",
        "mtbench --data=mt_bench_questions.jsonl": "--max_new_tokens=8",
        "generate --run=vicuna-7b-v1.5 --drafter=prompt_lookup": FEW,
        "chat --run=vicuna-7b-v1.5": FEW,
        "chat --run=SmolLM2-135M-Instruct": FEW,
        "export --to=run": "",
    },
    "gguf": {
        "generate --run=SmolLM2": FEW,
        "build_datastore --tokenizer=SmolLM2": "",
        "export --from=SmolLM2": "",
    },
    "code_model": {
        "train code_lm.py": "",
        "build_datastore --datastore=runs/code_store": "",
        "generate --datastore=runs/code_store": FEW,
        "benchmarks.drafters --workdir=runs/mixed": f"{DRAFTERS} --skip_prompts=1 --num_draft=4",
        "export --to=hugging_face": "",
    },
    "trainings": {
        "train --config=experiments/configs/tiny.py": "--config.num_steps=4",
        "write_chains": "",
        "evaluate --run=runs/tiny": "--count=4",
        "evaluate --problems=FILE": "",
        "evaluate checkpoints/arithmetic": "--lengths=2,2 --count=4",
        "make_data --data_dir=runs/data": "--num_train=20 --num_test=10",
        "train arithmetic/ar --config.mesh.data=0": "",
        "train multitask/ar --config.mesh.tensor=4": "",
        "train length_extrapolation.py:lis/looped_aligned": "",
    },
    "benchmarks": {
        "benchmarks.tasks": "--count=8 --repeats=1",
        "reproduce --dry_run": "",
        "reproduce --minutes=": "--minutes=0",
    },
}
QUICKSTART = "--config=experiments/configs/quickstart.py"
SLOW_RUNS = {
    "quickstarts": {
        "quickstart": "",
        "train quickstart.py:edit_distance/looped_aligned": "",
        "collect_results --results=runs/quickstart.jsonl": "",
        "collect_results --results=runs/ablation.jsonl": "",
    },
    "once_more": {
        "train code_lm.py": "",
        "build_datastore --datastore=runs/code_store": "",
        "benchmarks.drafters --workdir=runs/code_bench": DRAFTERS,
        "benchmarks.drafters --workdir=runs/auto": "--count=1 --max_new_tokens=8 --repeats=1",
        "benchmarks.datastore_build": "--files=src/*.py --repeats=1",
        "benchmarks.looped_drafter": "--lengths=4,4 --count=2 --repeats=1",
        "benchmarks.train": f"--steps=1 --rounds=1 {BASELINE}",
        "benchmarks.decode": (
            "--shape=tiny --steps=2 --text_length=16 --store_tokens=4000 --num_draft=4 "
            f"{BASELINE}"
        ),
    },
    "published_model": {
        "build_datastore code.model --files=": "",
        "rest_demo": (
            f"{FEW} --count=1 --config.corpus.folder=src --workdir=runs/rest_demo "
            "--model=SmolLM2-135M-Instruct --problems=HumanEval.jsonl.gz"
        ),
        "benchmarks.exactness": (
            f"{FEW} --tokens=8 --drafters=rest --corpus=src --dtypes=bfloat16 "
            "--model=SmolLM2-135M-Instruct --problems=HumanEval.jsonl.gz"
        ),
    },
}
NOT_RUN = {
    "./launch/test.sh": "is what runs this",
    "./launch/beam.sh": "makes an environment of its own, for the tests in tests/beam",
    "./launch/tpu_pod.sh": "rents machines; tests/launch runs it against a stand-in",
    "./launch/gke.sh": "rents machines; tests/launch runs it against a stand-in",
    "./launch/run.sh ./launch/gpu_minutes.sh": "needs a GPU; tests/launch has a stand-in",
    "./launch/slurm.sh": "needs a cluster; tests/launch runs it against a stand-in",
    "python tests.tasks.published": "tests/tasks/test_published.py calls it",
    "git": "feeds docker; tests/launch runs it",
    "docker": "is not installed; tests/launch has a stand-in",
    "train --coordinator=": "needs several machines; test_train_processes.py has some",
    "generate --coordinator=": "needs a cluster; test_decode_processes.py has processes",
}
if importlib.util.find_spec("torch"):
    SLOW_RUNS["published_model"]["benchmarks.transformers_baseline"] = FEW
else:
    NOT_RUN["benchmarks.transformers_baseline"] = "needs torch"
MODEL = dataclasses.replace(tiny_hf_model.MODEL, num_heads=4, text_vocab_size=400)
MODELS = "CodeLlama-7b-Instruct-hf", "vicuna-7b-v1.5", "SmolLM2-135M-Instruct"
# Of what a command makes, the flags that say where.
RESULTS = ("workdir", "records", "results", "datastore", "targets", "data_dir")


def name_of(command):
    """A command as the tables above name it: the script, or the program."""
    script = script_of(command)
    if not script or command[0].endswith(
        ("beam.sh", "tpu_pod.sh", "gke.sh", "slurm.sh")
    ):
        return command
    return [script[0].removeprefix("experiments."), *script[1:]]


def is_named(key, command):
    name, *parts = key.split()
    first, *arguments = name_of(command)
    return name == first and all(part in " ".join(arguments) for part in parts)


def find(keys, command):
    return [key for key in keys if is_named(key, command)]


def found_in(table):
    """The commands that a table runs, each once."""
    found = {}
    for key, flags in table.items():
        for where, command in all_commands():
            if is_named(key, command) and not find(NOT_RUN, command):
                found.setdefault(tuple(script_of(command)), (where, flags.split()))
    return [(where, [*script, *flags]) for script, (where, flags) in found.items()]


def test_blocks_are_split_into_commands():
    text = """
for s in 0 1; do ./launch/local.sh --seed=$s; done  # twice
A="python -m experiments.train --config=x \\
    --workdir=y"
./launch/run.sh cuda $A && git archive HEAD | docker build -
"""
    found = list(commands(text))
    assert found[0] == ["./launch/local.sh", "--seed=0"]
    assert found[1] == ["./launch/local.sh", "--seed=1"]
    assert [command[0] for command in found[3:]] == ["git", "docker"]
    assert script_of(found[0]) == ["experiments.quickstart", "--seed=0"]
    train = ["experiments.train", "--config=x", "--workdir=y"]
    assert script_of(found[2]) == train


def test_every_command_is_run_or_has_a_reason():
    known = [find(table, c) for _, c in all_commands() for table in tables()]
    assert len(known) > 50
    for where, command in all_commands():
        shown = f"{where}: {' '.join(command)}"
        keys = [key for table in tables() for key in find(table, command)]
        assert keys, f"{shown}\nadd it to RUNS, SLOW_RUNS or NOT_RUN"
        if command[0].startswith("./launch/"):
            is_there = os.access(ROOT / command[0], os.X_OK)
            assert is_there, f"{where}: there is no {command[0]}"
    for table in tables():
        for key in table:
            is_used = any(is_named(key, command) for _, command in all_commands())
            assert is_used, f"no page has the command {key!r}"


def tables():
    return [NOT_RUN, *RUNS.values(), *SLOW_RUNS.values()]


def test_every_command_is_understood():
    """Of those that are not run above, each flag exists, and each config loads."""
    quick = [key for table in RUNS.values() for key in table]
    asked = [
        (where, script_of(command))
        for where, command in all_commands()
        if script_of(command) and not find(quick, command)
    ]
    assert len(asked) > 15
    done = subprocess.run(
        [sys.executable, "-m", "tests.commands"],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        input=json.dumps([command for _, command in asked]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    refusals = json.loads(done.stdout.splitlines()[-1])
    refused = [
        f"{where}: {' '.join(command)}\n    {why}"
        for (where, command), why in zip(asked, refusals)
        if why
    ]
    assert not refused, "\n".join(refused)


@pytest.fixture(scope="module")
def placeholders(tmp_path_factory):
    """A directory with what the placeholders of the pages stand for."""
    path = tmp_path_factory.mktemp("placeholders")
    (path / "src").mkdir()
    texts = [file.read_text() for file in sorted(ROOT.glob("relay_jax/*.py"))[:8]]
    for number, text in enumerate(texts):
        (path / "src" / f"{number}.py").write_text(text)
    tokenizer = train_tokenizer(texts, MODEL.vocab_size)
    for name in ("code.model", "tok.model"):
        (path / name).write_bytes(tokenizer)
    params = init_params(TrainConfig(model=MODEL))
    for name in MODELS:
        hf_weights.save_params(params, MODEL, path / name)
        (path / name / "tokenizer.model").write_bytes(tokenizer)
    gguf_files.write(
        path / "SmolLM2-135M-Instruct.Q4_1.gguf", fields=gguf_files.TOKENIZER
    )
    write_lines(path / "the_stack.jsonl", [{"content": text} for text in texts])
    write_parquet(path / "the-stack-dedup" / "data" / "python", texts)
    talk = [{"data": ["Why?", "Because it is so."]}] * 3
    write_lines(path / "ultrachat" / "train_0.jsonl", talk)
    turns = {"question_id": 81, "category": "writing", "turns": ["Why?", "How?"]}
    write_lines(path / "mt_bench_questions.jsonl", [turns])
    problems = [
        {"task_id": f"HumanEval/{number}", "prompt": f"def f{number}(x):\n"}
        | {"canonical_solution": "    return x\n", "entry_point": f"f{number}"}
        | {"test": "def check(candidate):\n    assert candidate(1) == 1\n"}
        for number in range(2)
    ]
    write_lines(path / "problems.jsonl", problems)
    (path / "FILE").write_text("1 + 2 * 3 = 1 + 6 = 7\n2 * 3 + 4 = 10\n")
    packed = gzip.compress((path / "problems.jsonl").read_bytes())
    (path / "HumanEval.jsonl.gz").write_bytes(packed)
    (path / "STORE").symlink_to("runs/store")  # as documented commands make them
    (path / "TARGETS").symlink_to("runs/he.npz")
    return path


def write_lines(file, lines):
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def write_parquet(folder, texts):
    from pyarrow import parquet, table

    folder.mkdir(parents=True)
    parquet.write_table(table({"content": texts}), folder / PARQUET)


PARQUET = "data-00000-of-00144.parquet"


@pytest.fixture
def folder(placeholders, tmp_path):
    for path in placeholders.iterdir():
        is_link = path.is_symlink()
        target = path.readlink() if is_link else path
        (tmp_path / path.name).symlink_to(target)
    small_configs.write(tmp_path)
    checkpoints = tmp_path / "experiments" / "checkpoints"
    checkpoints.symlink_to(ROOT / "experiments" / "checkpoints")
    return tmp_path


def run(where, command, folder):
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "RELAY_JAX_CACHE": str(folder / "cache"),
    }
    if "mesh" not in " ".join(command):
        environment["XLA_FLAGS"] += f" {DEVICES}=1"
    done = run_script(*command[:1], command[1:], environment, folder, "Why?\n/quit\n")
    expected = 143 if "--minutes=0" in command else 0
    shown = f"{where}: {' '.join(command)}\n{done.stderr[-3000:]}"
    assert done.returncode == expected, shown
    flags = dict(part[2:].split("=", 1) for part in command[1:] if "=" in part)
    for name in RESULTS if "--dry_run" not in command else ():
        if name in flags:
            assert (folder / flags[name]).exists(), f"{shown}: no {flags[name]}"


@pytest.mark.parametrize("name", RUNS)
def test_commands_run(name, folder):
    for where, command in found_in(RUNS[name]):
        run(where, command, folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_RUNS)
def test_long_commands_run(name, folder):
    for where, command in found_in(SLOW_RUNS[name]):
        is_plain = command[0].endswith("quickstart") and "--config" not in str(command)
        run(where, [*command, QUICKSTART] if is_plain else command, folder)
