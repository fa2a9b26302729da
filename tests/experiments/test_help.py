"""--help of every script: its docstring as written, and every flag that it has."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text()
    for folder in ("experiments", "experiments/benchmarks")
    for path in sorted((ROOT / folder).glob("*.py"))
    if 'if __name__ == "__main__":' in path.read_text()
}
# Each script runs in a fork of one process, which has imported the library once.
RUNNER = """
import contextlib, io, json, os, runpy, sys
from absl import flags
import relay_jax
relay_jax.load
for name in sys.argv[1:]:
    if os.fork() == 0:
        sys.argv = [name, "--help"]
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        defined = flags.FLAGS.flags_by_module_dict().items()
        names = [f.name for m, fs in defined if "experiments" in m for f in fs]
        print(json.dumps([name, shown.getvalue(), names]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def helps():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", RUNNER, *SCRIPTS],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, done.stdout.splitlines())
    return {name: (text, names) for name, text, names in lines}


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_shows_every_flag_and_the_examples(name, helps):
    text, names = helps[name]
    shown = set()
    for line in text.splitlines():
        if line.startswith("  --"):
            shown.add(line[4:].partition(":")[0].removeprefix("[no]"))
    assert set(names) and set(names) <= shown
    examples = [
        line
        for line in SCRIPTS[name].split('"""')[1].splitlines()
        if line.startswith("    ")
    ]
    assert examples and all(line in text.splitlines() for line in examples)
    assert f"python -m {name} " in text


def test_help_of_humaneval_shows_the_flags_of_its_modules(helps):
    text, _ = helps["experiments.humaneval"]
    for name in ("run", "datastore", "num_draft", "count", "nucleus", "coordinator"):
        assert f"  --{name}:" in text or f"  --[no]{name}:" in text
