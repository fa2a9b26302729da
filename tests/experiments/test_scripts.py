"""Every script as a user runs it, stages chained, in a temporary directory."""

import contextlib
import json
import os
import pathlib
import pty
import subprocess
import sys

import numpy as np
import pytest

from experiments.configs import paper, quickstart
from relay_jax import config as configs
from relay_jax import config_io, files
from relay_jax.data.buckets import open_buckets
from relay_jax.data.chain_files import chain_file, save_chains
from relay_jax.relay.stage_checks import check_stages
from relay_jax.tasks import make_task
from relay_jax.training import loop, run_dir
from tests.processes import DEVICES
from tests.script_server import run_script

ROOT = pathlib.Path(__file__).parents[2]
TINY = [
    "--config=experiments/configs/tiny.py",
    *("--config.num_steps=4", "--config.model.dim=16", "--config.model.num_layers=1"),
    *("--config.evaluation.final=16", "--config.log_every_steps=2"),
]


def environment(devices=1):
    return os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {DEVICES}={devices}",
    }


def script(name, *arguments, cwd=ROOT, devices=1, stdin=""):
    return run_script(
        f"experiments.{name}", arguments, environment(devices), cwd, stdin
    )


def in_a_terminal(name, *arguments):
    """What a script prints on a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", f"experiments.{name}", *arguments]
    printed = {"stdout": theirs, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment(), **printed) as process:
        os.close(theirs)
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    with open(ours, "rb", buffering=0) as screen:
        shown = bytearray()
        with contextlib.suppress(OSError):  # at the end of what was printed
            while more := screen.read(4096):
                shown += more
    return shown.decode().replace("\r\n", "\n")


def refusal(name, *arguments, **rest):
    """The one line on stderr with which a script refuses its arguments."""
    done = script(name, *arguments, **rest)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    line = done.stderr.splitlines()[-1]  # above it, the rest of a bar at most
    assert line.startswith("error: ")
    return line


def test_stages_follow_one_another(tmp_path):
    done = script("train", *TINY, f"--workdir={tmp_path}/tiny")
    assert done.returncode == 0, done.stderr
    assert '"params_sha256"' in done.stdout
    file = tmp_path / "few.py"
    file.write_text(
        "from experiments.configs import chains\n"
        "def get_config():\n"
        "    config = chains.get_config()\n"
        "    config.counts = {'4': 8, '5': 8}\n"
        "    return config\n"
    )
    arguments = f"--config={file}", "--config.batch_size=8"
    done = script("write_chains", *arguments, f"--workdir={tmp_path}/chains")
    assert done.returncode == 0, done.stderr
    arguments = [
        f"--run={tmp_path}/tiny",
        f"--workdir={tmp_path}/evaluation",
        *("--lengths=2,3", "--count=16"),
    ]
    done = script("evaluate", *arguments)
    assert done.returncode == 0, done.stderr
    assert "answer_accuracy on arithmetic, by length" in done.stdout
    within_a_file = f"--workdir={file}/evaluation"  # seen before the work, so no bar
    refused = script("evaluate", *arguments[:1], *arguments[2:], within_a_file)
    assert refused.stderr.startswith(f"error: {file}")
    assert "cannot be used: Not a directory" in refused.stderr.splitlines()[-1]
    figures = {f.name for f in (tmp_path / "evaluation" / "figures").iterdir()}
    assert figures == {
        *("answer_accuracy.png", "chain_accuracy.png", "token_accuracy.png"),
        "hit_matrix_arithmetic_3.png",
    }
    records = (tmp_path / "tiny" / "records.jsonl").read_text()
    rest = f"--workdir={tmp_path}/tiny", "--overwrite"
    message = refusal("evaluate", *arguments[:1], *rest)
    assert (
        "tiny is a run directory (it has config.json), whose records must stay; "
        in message
    )
    assert (tmp_path / "tiny" / "records.jsonl").read_text() == records
    twice = f"--run={tmp_path}/tiny,{tmp_path}/tiny", f"--workdir={tmp_path}/twice"
    message = refusal("evaluate", *twice, "--count=1")
    assert (
        "both evaluate 'looped_aligned' with seed 0 on arithmetic, which would"
        in message
    )
    again = refusal("evaluate", *arguments)
    assert "has an evaluation; pass --overwrite to replace it" in again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--config.model.dimm=3"],
            "error: unknown key config.model.dimm; valid keys: a",
        ),
        (["--config.data.buckets.b.task=lis"], "buckets.b; valid keys: arithmetic"),
        (["--noconfig.seed.x"], "unknown key config.seed.x: config.seed is 0"),
        (["--config.model.dim=wide"], "flag --config.model.dim=wide: invalid literal"),
        (["--no_such"], "Unknown command line flag 'no_such' (--help lists the flags)"),
        (
            ["--config=/no/such.py"],
            "--config: there is no file '/no/such.py'; give a P",
        ),
        (["--config=README.md"], "--config=README.md fails with SyntaxError: "),
        (["--config", "experiments/configs/tiny.py:x"], "tiny.py:x fails with TypeErr"),
        (
            ["--config=experiments/configs/quickstart.py:lis/nope"],
            "error: unknown run 'nope'; this experiment has looped_aligned, ar, ",
        ),
        (
            ["--config=experiments/configs/quickstart.py:ar"],
            "error: unknown experiment 'ar'; choose one of arithmetic, edit_distance, ",
        ),
        (
            ["--config=experiments/configs/quickstart.py"],
            (
                "python -m experiments.quickstart; for one of its runs give "
                "--config=experiments/configs/quickstart.py:TASK/RUN, RUN: ar, ar_contr"
            ),
        ),
        (
            ["--config=experiments/configs/chains.py"],
            "--config=experiments/configs/chains.py is for python -m experiments.write",
        ),
        (["--config.model.num_heads=5"], "model.dim (32) must be a multiple of"),
        (["--config.data.buckets.arithmetic.task=sums"], "unknown task 'sums'; valid"),
        (["--config.data.buckets.arithmetic.lengths=(4,3)"], "4..3 are out of range"),
        (["--config.model.num_numbers=3"], "raise model.num_numbers"),
    ],
)
def test_bad_input_ends_in_a_clear_line_before_any_training(
    tmp_path, arguments, message
):
    error = refusal("train", TINY[0], *arguments, f"--workdir={tmp_path}/run")
    assert message in error
    assert not (tmp_path / "run").exists()


def test_the_default_config_is_checked_as_well(tmp_path):
    arguments = "--config.runs.arr.num_steps=3", f"--workdir={tmp_path}/run"
    message = refusal("quickstart", *arguments)
    assert "unknown key config.runs.arr; valid keys: ar, ar_control, ar_r" in message
    message = refusal("quickstart", "--config.runs.ar.seed=3", arguments[1])
    assert (
        "config.runs.ar.seed is 3, but every stage of an experiment has the " in message
    )
    shown = script("quickstart", "--help")
    assert "--config:" in shown.stdout and "--jobs:" in shown.stdout


@pytest.mark.parametrize("name", ["train", "quickstart"])
def test_a_directory_that_cannot_be_created_ends_in_a_clear_line(tmp_path, name):
    (tmp_path / "file").write_text("")
    config = [TINY[0]] if name == "train" else []
    message = refusal(name, *config, f"--workdir={tmp_path}/file/run")
    assert (
        f"{tmp_path}/file" in message and "cannot be used: Not a directory" in message
    )


@pytest.mark.slow
def test_quickstart_from_end_to_end(tmp_path):
    """All stages, the table, the figures and the records, with tiny models."""
    file = tmp_path / "small.py"
    file.write_text(
        "from experiments.configs import quickstart\n"
        "def get_config():\n"
        "    config = quickstart.get_config()\n"
        "    for run in config.runs.values():\n"
        "        run.num_steps = 4\n"
        "        run.model.dim = 16\n"
        "        run.evaluation.final = 8\n"
        "    # After fewer steps it may predict no answer, so that no chain is usable.\n"
        "    config.runs.looped_aligned.num_steps = 60\n"
        "    counts = config.chains.chains_arithmetic.counts\n"
        "    for length in counts:\n"
        "        counts[length] = 8\n"
        "    return config\n"
    )
    done = script("quickstart", f"--config={file}", f"--workdir={tmp_path}/work")
    assert done.returncode == 0, done.stderr
    assert "answer_accuracy on arithmetic, by length" in done.stdout
    drafted = list(files.read_lines(tmp_path / "work" / "rest_records.jsonl"))
    assert [line["drafter"] for line in drafted][:2] == ["none", "rest"]
    assert drafted[1]["num_draft"] == 8 and drafted[2]["autotuned"]
    assert all(line["same_texts"] == 1 for line in drafted)
    lines = list(files.read_lines(tmp_path / "work" / "records.jsonl"))
    assert {line["model"] for line in lines} == {
        *("ar", "looped_vanilla", "looped_aligned", "looped_feedback"),
        *("ar_relay", "ar_control"),
    }
    assert {line["length"] for line in lines} == set(range(1, 9))
    assert all(set(line) == set(files.FIELDS) for line in lines)
    assert (tmp_path / "work" / "figures" / "hit_matrix_arithmetic_8.png").exists()
    again = script("quickstart", f"--config={file}", f"--workdir={tmp_path}/work")
    assert "finished already: " in again.stdout
    assert tables(again.stdout) == tables(done.stdout)


def tables(output):
    """The tables that a quickstart prints between its progress and its paths."""
    return output[output.index("answer_accuracy") : output.index("figures:")]


@pytest.mark.parametrize("experiment", quickstart.EXPERIMENTS)
def test_quickstart_configs_are_complete(experiment):
    values = quickstart.get_config(experiment).to_dict()
    config = config_io.build(configs.RelayConfig, values)
    check_stages({**config.runs, **config.chains})
    relay, control = (config.runs.get(f"ar_{name}") for name in ("relay", "control"))
    if relay and control:  # they differ in the chains alone
        old = {n: b for n, b in relay.data.buckets.items() if b.kind != "chains"}
        assert old == control.data.buckets
    for name in ("ar", "looped_vanilla"):
        one = quickstart.get_config(f"{experiment}/{name}").to_dict()
        assert config_io.build(configs.TrainConfig, one) == config.runs[name]


def shrink(run):
    """A paper run, small enough for a step, which is of chains where there are any."""
    run["model"] |= {"num_layers": 1, "dim": 16, "mlp_dim": 16}
    buckets = run["data"]["buckets"]
    late = any(bucket["kind"] == "chains" for bucket in buckets.values())
    for name, bucket in buckets.items():
        lengths = (11, 12) if bucket["task"] == "lis" else (1, 2)  # two rounds at most
        share = 0.5 if late and bucket["kind"] != "chains" else 0.0
        buckets[name] = bucket | {"lengths": lengths, "start_share": share}
    run["data"]["batch_size"] = 2
    run["evaluation"] |= {"lengths": {}}
    return run | {"num_steps": 1, "init_from": ""}


def write_true_chains(run, chains, path):
    """Writes true chains for the chains buckets of a shrunk run."""
    for bucket in run.data.buckets.values():
        if bucket.kind == "chains" and not (path / bucket.path).exists():
            shortest, longest = bucket.lengths
            counts = {str(n): 3 for n in range(shortest, longest + 1)}
            values = config_io.to_dict(chains[bucket.path]) | {"counts": counts}
            config = config_io.build(configs.ChainsConfig, values)
            folder = run_dir.open_run(path / bucket.path, config)
            task = make_task(config.task, config.options)
            for length in map(int, counts):
                true = task.sample(np.random.default_rng(0), np.full(3, length))
                save_chains(chain_file(folder, task, length), true, np.zeros(5, int))
            files.write_json(folder / "summary.json", {})


@pytest.mark.parametrize("which", [*paper.PLANS, "multitask"])
def test_paper_configs_have_the_papers_values(which):
    config = config_io.build(configs.RelayConfig, paper.get_config(which).to_dict())
    check_stages({**config.runs, **config.chains})
    for name, run in config.runs.items():
        assert (run.model.num_layers, run.model.dim, run.model.num_heads) == (3, 256, 4)
        assert run.model.position.scheme == "rope"
        assert run.model.dropout == 0.1
        assert run.model.input_injection == "hidden"
        assert run.data.batch_size == 512
        assert run.optimizer.weight_decay == 0.01
        assert run.optimizer.warmup_share == 0.01
        rates = {"looped_vanilla": 1e-3, "ar_relay": 1e-4, "ar_control": 1e-4}
        expected = 5e-5 if "self" in name else rates.get(name, 5e-4)
        assert run.optimizer.learning_rate == expected
        plain = name == "looped_aligned" or "self" in name
        weights = {"arithmetic": 1.0, "edit_distance": 10.0, "lis": 5.0}
        assert run.loss.task_weights == ({} if plain else weights)


SLOW_PLANS = ["edit_distance", "lis", "multitask"]


@pytest.mark.parametrize(
    "which",
    ["arithmetic", *(pytest.param(p, marks=pytest.mark.slow) for p in SLOW_PLANS)],
)
def test_paper_configs_take_a_step(which, tmp_path):
    values = paper.get_config(which).to_dict()
    config = config_io.build(configs.RelayConfig, values)
    steps = ["looped_aligned", "ar", "ar_relay"]
    if which == "multitask":  # the other kinds of runs, once
        steps += ["looped_vanilla", "ar_control", "ar_self_oracle_5"]
    for name in steps:
        small = config_io.build(configs.TrainConfig, shrink(values["runs"][name]))
        write_true_chains(small, config.chains, tmp_path)
        loops = {b.task.name: b.num_loops for b in open_buckets(small, tmp_path / name)}
        assert set(loops.values()) == {2}
        assert loop.train(small, tmp_path / name)["steps"] == 1


TABLE_3 = {  # samples within the training lengths, and of each length beyond
    "arithmetic": (
        42_515,
        {16: 6477, 17: 6882, 18: 7287, 19: 6477, 20: 6072}
        | {21: 5668, 22: 5263, 23: 4858, 24: 4453, 25: 4048},
    ),
    "edit_distance": (
        60_844,
        {31: 4195, 32: 4195, 33: 4055, 34: 4055, 35: 3916}
        | {36: 3916, 37: 3776, 38: 3776, 39: 3636, 40: 3636},
    ),
    "lis": (
        73_235,
        {n: 1479 - (n - 101) * (1479 - 1198) / 19 for n in range(101, 121)},
    ),
}


@pytest.mark.parametrize("task", TABLE_3)
def test_merged_data_have_the_counts_of_table_3(task):
    config = config_io.build(configs.RelayConfig, paper.get_config(task).to_dict())
    within, beyond = TABLE_3[task]
    counts = {int(n): c for n, c in config.chains[f"chains_{task}"].counts.items()}
    assert counts == pytest.approx(beyond, abs=0.5)  # LIS: it falls evenly
    total = within + sum(counts.values())
    assert total == pytest.approx(100_000, abs=10)
    drawn = {}
    for bucket in config.runs["ar_relay"].data.buckets.values():
        samples = within
        if bucket.kind == "chains":
            first, last = bucket.lengths
            samples = sum(counts[n] for n in range(first, last + 1))
        else:
            assert bucket.lengths[1] == min(beyond) - 1
        drawn[bucket.lengths] = bucket.weight
        assert bucket.weight == pytest.approx(samples / total)
    assert sum(drawn.values()) == pytest.approx(1)


def test_the_speed_of_the_tasks_is_recorded(tmp_path):
    file = tmp_path / "speed.jsonl"
    done = script("benchmarks.tasks", "--count=8", "--repeats=1", f"--records={file}")
    assert done.returncode == 0, done.stderr
    lines = {line["task"]: line for line in files.read_lines(file)}
    assert set(lines) == set(paper.PLANS) and lines["lis"]["lengths"] == [1, 100]
    for line in lines.values():
        assert line["examples_per_cpu_second"] > 0 and line["count"] == 8
        assert line["command"].startswith("python -m experiments.benchmarks.tasks")


def test_decode_steps_are_measured_against_the_memory(tmp_path):
    file = tmp_path / "records.jsonl"
    small = ["--shape=tiny", "--steps=2", "--text_length=16", "--store_tokens=4000"]
    small += ["--num_draft=4", f"--trace={tmp_path}/trace"]
    done = script("benchmarks.decode", *small, f"--records={file}")
    assert done.returncode == 0, done.stderr
    lines = list(files.read_lines(file))
    drafters = ["prompt_lookup", "token_recycling", "rest", "mixed"]
    assert [line["step"] for line in lines] == ["plain", *drafters]
    traced = {file.parents[3].name for file in tmp_path.rglob("*.xplane.pb")}
    assert traced == {"plain", *drafters}
    assert [line["num_draft"] for line in lines] == [0, 4, 4, 4, 4]
    for line in lines:
        ratio = line["limit_ms"] / line["ms_per_step"]
        assert line["share_of_limit"] == pytest.approx(ratio, abs=2e-3)


def test_an_exported_model_is_evaluated_and_not_overwritten(tmp_path):
    done = script("train", *TINY, f"--workdir={tmp_path}/tiny")
    assert done.returncode == 0, done.stderr
    arguments = [
        f"--from={tmp_path}/tiny",
        "--to=weights",
        f"--workdir={tmp_path}/ship",
    ]
    done = script("export", *arguments)
    assert done.returncode == 0, done.stderr
    assert "holds a model already" in refusal("export", *arguments)
    chosen = ["--lengths=1,3", "--step=2", "--count=8"]
    workdir = f"--workdir={tmp_path}/evaluation"
    done = script("evaluate", f"--run={tmp_path}/ship", *chosen, workdir)
    assert done.returncode == 0, done.stderr
    lines = files.read_lines(tmp_path / "evaluation/records.jsonl")
    assert {line["length"] for line in lines} == {1, 3}
    check_files_of_problems(tmp_path, f"--run={tmp_path}/ship")


def check_files_of_problems(tmp_path, run):
    """`evaluate` on problems modulo 5 of a file, two of them with chains."""
    file, workdir = tmp_path / "sums.txt", f"--workdir={tmp_path}/published"
    file.write_text(
        "1+2=3\n2*3+4*2=1+4*2=1+3=4\n2 * 3 + 4 * 2 = 2 * 3 + 3 = 1 + 3 = 4\n"
    )
    done = script("evaluate", run, f"--problems={file}", workdir)
    assert done.returncode == 0, done.stderr
    assert (
        f"{file}: 3 problems of arithmetic, 2 with a chain to compare, 1 with a chain in "
        "another order"
    ) in done.stdout
    lines = list(files.read_lines(tmp_path / "published/records.jsonl"))
    counts = {(line["metric"], line["length"]): line["count"] for line in lines}
    assert counts["answer_accuracy", 3] == 2 and counts["chain_accuracy", 3] == 1
    assert {line["problems"] for line in lines} == {str(file)}
    file.write_text("1+2=3\n1+2=4\n")
    other = f"--workdir={tmp_path}/refused"
    message = refusal("evaluate", run, f"--problems={file}", other)
    assert message.startswith(f"error: {file}, line 2: the answer is 4, expected 3: ")
    assert not (tmp_path / "refused").exists()


def test_drafts_from_a_store_change_no_text(tmp_path):
    """Store, replay, generation and benchmark, one after another."""
    tiny = [argument for argument in TINY if "model" not in argument]
    run, store = f"--run={tmp_path}/ar", f"--datastore={tmp_path}/store"
    changes = "--config.model.kind=decoder", "--config.model.input_injection=hidden"
    done = script("train", *tiny, *changes, f"--workdir={tmp_path}/ar")
    assert done.returncode == 0, done.stderr

    (tmp_path / "corpus").mkdir()
    for number in range(5):
        file = tmp_path / "corpus" / f"{number}.txt"
        file.write_text(f"[ARI] 1+{number}*2= 1+{number}= 3" * 20)
    corpus = f"--files={tmp_path}/corpus", "--tokenizer=relay:12"
    done = script(
        "build_datastore", store, *corpus, f"--records={tmp_path}/built.jsonl"
    )
    assert done.returncode == 0, done.stderr
    assert "5 documents, 1,205 tokens in 1 shards, " in done.stdout
    (built,) = files.read_lines(tmp_path / "built.jsonl")
    assert built["tokens"] == 1205 and 6 < built["bytes_per_token"] < 8.5
    assert built["tokens_per_cpu_second"] > 0 and built["opening_ms"] > 0
    assert built["command"].startswith("python -m experiments.build_datastore")
    assert "give --overwrite" in refusal("build_datastore", store, *corpus)
    more = "--extend", "--every=2"
    done = script("build_datastore", store, *corpus, *more)
    assert "8 documents, 1,928 tokens in 2 shards, " in done.stdout, done.stderr
    foreign = *corpus[:1], "--tokenizer=relay:13", "--extend"
    refused = refusal("build_datastore", store, *foreign)
    assert "build a separate store for them" in refused

    texts = np.tile(np.arange(41, 51), 30)
    targets = tmp_path / "targets.npz"
    np.savez(targets, tokens=texts, starts=[0, 200], prompt_lengths=[20, 20])
    done = script("replay", store, f"--targets={targets}", "--timed_calls=5")
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert line["drafter"] == "rest" and line["tokens"] == 260
    assert line["M"] > 5  # the text repeats itself
    assert line["steps"] == round(260 / line["M"])

    message = refusal("replay", f"--targets={targets}", "--drafter=token_recycling")
    assert "measure it while a model decodes (benchmarks/drafters.py" in message

    prompt = "--prompt=[ARI] 1+2*3=", "--max_new_tokens=30", "--ignore_eos"
    fixed = "--drafter=prompt_lookup", "--num_draft=8"
    plain = script("generate", run, "--drafter=none", *prompt)
    assert plain.returncode == 0, plain.stderr
    assert "30 tokens in 30 steps (M = 1.00)" in plain.stderr
    ids = script(
        *("generate", run, "--drafter=none", "--print_ids"),
        *("--prompt_ids=2,42,11,43,13,44,8", *prompt[1:]),
    )
    drafted = script("generate", run, *fixed, *prompt)
    assert drafted.stdout == plain.stdout
    assert in_a_terminal("generate", run, *fixed, *prompt) == plain.stdout
    assert len(ids.stdout.split(",")) == 30

    arguments = "--task=arithmetic", "--length=2", "--count=4", "--repeats=1"
    done = script(
        *("benchmarks.drafters", run, *arguments, f"--workdir={tmp_path}/bench"),
        *("--drafters=prompt_lookup", "--num_draft=4"),
    )
    assert done.returncode == 0, done.stderr
    lines = list(files.read_lines(tmp_path / "bench" / "records.jsonl"))
    assert [line["drafter"] for line in lines] == ["none", "prompt_lookup"]
    assert lines[0]["M"] == 1.0 and lines[1]["M"] >= 1.0
    assert (tmp_path / "bench" / "speed.png").stat().st_size > 1000
    assert "speed-up" in done.stdout

    foreign = refusal("generate", run, store, *prompt)
    assert "was built with the tokenizer 'relay-tasks-v1-12'" in foreign


def test_collect_results_joins_the_seeds_of_a_quickstart(tmp_path):
    for seed in (0, 1):
        run = tmp_path / f"seed{seed}"
        (run / "ar").mkdir(parents=True)
        call = {"command": "c", "seed": seed, "trained": {"lis": [1, 2]}}
        files.append_lines(run / "run.jsonl", [call])
        stage = {"steps": 7, "seconds": 1.5, "num_params": 3, "params_sha256": "ab"}
        files.write_json(run / "ar" / "summary.json", stage | {"final": []})
        losses = [{"step": n, "loss": 0.5} for n in range(1, 8)]
        files.append_lines(run / "ar" / "metrics.jsonl", losses)
        common = {"run": "ar", "task": "lis", "model": "ar", "seed": seed, "count": 4}
        lines = [
            files.make_record(**common, length=2, metric=metric, value=0.5 + seed / 4)
            for metric in ("answer_accuracy", "chain_accuracy", "token_accuracy")
        ]
        files.append_lines(run / "records.jsonl", lines)
        hit = files.make_record(
            **common, length=2, metric="hit_accuracy", value=0.5, round=0, position=0
        )
        files.append_lines(run / "hit_records.jsonl", [hit])
    alone = tmp_path / "alone"  # a single training
    alone.mkdir()
    files.append_lines(alone / "run.jsonl", [{"command": "c", "seed": 2}])
    files.append_lines(alone / "metrics.jsonl", losses)
    last = files.make_record(
        **common | {"seed": 2}, length=2, metric="answer_accuracy", value=1.0
    )
    files.write_json(alone / "summary.json", stage | {"final": [last]})
    files.append_lines(alone / "records.jsonl", [last, hit | {"seed": 2}])
    arguments = (
        f"--run={tmp_path}/seed0,{tmp_path}/seed1,{alone}",
        f"--results={tmp_path}/x.jsonl",
    )
    done = script("collect_results", *arguments)
    assert done.returncode == 0, done.stderr
    assert "mean over all available seeds" in done.stdout and "ar  0.750" in done.stdout
    assert (
        "minimum over all available seeds" in done.stdout and "ar  0.500" in done.stdout
    )
    lines = list(files.read_lines(tmp_path / "x.jsonl"))
    whole = ["call", "stage", *["record"] * 3, "hit"]
    assert [line["kind"] for line in lines] == [*whole, *whole, *whole[:3], "hit"]
    assert (tmp_path / "figures" / "x_hit_matrix_lis_2.png").exists()
    assert lines[1]["loss"] == 0.5
    assert (tmp_path / "figures" / "x_answer_accuracy.png").exists()
    assert "pass --overwrite to replace it" in refusal("collect_results", *arguments)
    again = f"--run={tmp_path}/x.jsonl", f"--results={tmp_path}/again.jsonl"
    done = script("collect_results", *again)
    assert done.returncode == 0, done.stderr
    assert list(files.read_lines(tmp_path / "again.jsonl")) == lines
    twice = f"--run={tmp_path}/seed0,{tmp_path}/seed0", f"--results={tmp_path}/y.jsonl"
    message = refusal("collect_results", *twice)
    assert (
        "both evaluate 'ar' with seed 0 on lis, which would count as two seeds"
        in message
    )
    missing = refusal(
        "collect_results", f"--run={tmp_path}", f"--results={tmp_path}/y.jsonl"
    )
    assert "has no finished quickstart" in missing
    files.write_lines(tmp_path / "run.jsonl", [{"command": "c"}])
    other = refusal(
        "collect_results", f"--run={tmp_path}", f"--results={tmp_path}/y.jsonl"
    )
    assert "its run.jsonl has no seed" in other
    plain = f"--run={tmp_path}/seed0/records.jsonl"
    other = refusal("collect_results", plain, f"--results={tmp_path}/y.jsonl")
    assert "it has lines without a kind; give the directory of the quickstart" in other
