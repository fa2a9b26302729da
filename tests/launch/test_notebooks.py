"""Every cell of the notebooks, each in a separate process and directory."""

import ast
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = {path.stem: path for path in (ROOT / "launch" / "colab").glob("*.ipynb")}
# As a kernel does: no file is `__main__`, from which processes start others.
RUNNER = """
import json, sys
cells = {"__name__": "__main__"}
for number, source in enumerate(json.load(sys.stdin)):
    exec(compile(source, f"code cell {number}", "exec"), cells)
with open("lines.json", "w") as file:
    json.dump(cells["lines"], file)
"""


def read(name):
    return json.loads(NOTEBOOKS[name].read_text())


def sources(name):
    """The code cells; magic lines would be no Python, and fail."""
    cells = [cell for cell in read(name)["cells"] if cell["cell_type"] == "code"]
    return ["".join(cell["source"]) for cell in cells]


def execute(codes, folder, preset="", **environment):
    """Runs code cells one after another in a new process."""
    environment = {"JAX_PLATFORMS": "cpu", "RELAY_PRESET": preset} | environment
    return subprocess.run(
        [sys.executable, "-c", RUNNER],
        cwd=folder,
        env=os.environ | environment,
        input=json.dumps(codes),
        capture_output=True,
        text=True,
        check=False,
    )


def measure(name, folder, preset, **environment):
    """What a notebook has measured when all of its cells have run."""
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    done = execute(sources(name), folder, preset, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "lines.json").read_text()), done.stdout


def check_rest(lines):
    names = ["plain", "prompt_lookup", "rest_paper", "rest", "auto"]
    assert [line["decoder"] for line in lines] == names
    assert all(line["same_texts"] == 1 and line["texts"] > 1 for line in lines)
    assert lines[0]["M"] == 1 <= lines[2]["M"] and lines[3]["M"] > 1


def accuracies(lines, metric="answer_accuracy"):
    found = [line for line in lines if line["metric"] == metric]
    return {(line["model"], line["length"]): line["value"] for line in found}


def test_both_notebooks_exist():
    assert set(NOTEBOOKS) == {"relay", "rest"}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_complete_and_has_no_output(name):
    book = read(name)
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert set(book) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    fields = {"cell_type", "id", "metadata", "source"}
    ran = {"execution_count": None, "outputs": []}
    for cell in book["cells"]:
        is_code = cell["cell_type"] == "code"
        assert is_code or cell["cell_type"] == "markdown"
        assert set(cell) == (fields | set(ran) if is_code else fields)
        assert not is_code or {key: cell[key] for key in ran} == ran
        assert all(isinstance(line, str) for line in cell["source"])
    ids = [cell["id"] for cell in book["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[\w-]{1,64}", one) for one in ids)
    assert 1 < len(sources(name)) <= 12
    for source in sources(name):
        ast.parse(source)


def test_one_address_and_one_way_to_install():
    installs = {sources(name)[0] for name in NOTEBOOKS}
    (install,) = installs
    (address,) = re.findall(r'REPOSITORY = "https://github.com/(.+)"', install)
    badge = f"https://colab.research.google.com/github/{address}/blob/main/launch/colab"
    readme = (ROOT / "README.md").read_text()
    for name in NOTEBOOKS:
        assert f"({badge}/{name}.ipynb)" in "".join(read(name)["cells"][0]["source"])
        assert f"(launch/colab/{name}.ipynb)" in readme


def test_what_is_missing_is_cloned_and_installed_once(tmp_path):
    tools, calls = tmp_path / "tools", tmp_path / "calls"
    (tools / "pip").mkdir(parents=True)
    (tools / "pip" / "__init__.py").touch()
    note = f"import sys; print(*sys.argv[1:], file=open({str(calls)!r}, 'a'))"
    (tools / "pip" / "__main__.py").write_text(note)
    git = (
        f'#!/bin/bash\necho "$@" >>{calls}\ncp -r {ROOT}/{{relay_jax,experiments}} .\n'
    )
    git += f'mkdir "$4" && mv relay_jax experiments "$4" && cp {ROOT}/req*.txt "$4"\n'
    (tools / "git").write_text(git)
    (tools / "git").chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    work = tmp_path / "work"
    work.mkdir()
    code = (
        sources("relay")[0],
        "lines = [importlib.import_module('relay_jax').__file__]",
    )
    there = {"PATH": path, "PYTHONPATH": str(tools), "PYTHONSAFEPATH": "1"}
    done = execute(code, work, **there)
    assert done.stderr.endswith("Now: Runtime > Restart session and run all.\n")
    clone = work / "relay_jax_clone"
    cloned, installed = calls.read_text().splitlines()
    assert cloned.startswith("clone --quiet https://") and cloned.endswith(str(clone))
    assert installed == f"install --quiet --requirement {clone}/requirements.txt"
    done = execute(code, work, **there)
    assert done.returncode == 0, done.stderr
    (file,) = json.loads((work / "lines.json").read_text())
    assert file == f"{clone}/relay_jax/__init__.py"
    assert len(calls.read_text().splitlines()) == 2


def test_relay_runs(tmp_path):
    fast = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    lines, output = measure("relay", tmp_path, "test", **fast)
    models = "looped_aligned", "ar"
    expected = {(model, length) for model in models for length in range(1, 9)}
    assert (
        set(accuracies(lines)) == set(accuracies(lines, "chain_accuracy")) == expected
    )
    drawn = {file.name for file in tmp_path.glob("runs/relay_test/figures/*.png")}
    assert {"chain_accuracy.png", "hit_matrix_arithmetic_8.png"} < drawn
    answers = re.findall(r"= (\d+) \(true: (\d+)\)", output)  # of the shipped model
    assert len(answers) == 4 and all(one == other for one, other in answers)


def test_rest_runs(tmp_path):
    fast = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    lines, output = measure("rest", tmp_path, "test", **fast)
    check_rest(lines)
    assert "24 tokens in 24 steps, and in " in output
    assert len(list((tmp_path / "runs" / "rest_test").glob("*.png"))) == 2


@pytest.mark.slow
def test_relay_reaches_its_accuracies_in_minutes(tmp_path):
    lines, _ = measure("relay", tmp_path, "smoke")
    found = accuracies(lines)
    for model in ("looped_aligned", "ar"):
        assert found[model, 2] > 0.8
    assert found["looped_aligned", 8] > 0.7 > found["ar", 8] + 0.2


@pytest.mark.slow
def test_rest_reaches_its_speed_in_minutes(tmp_path):
    lines, output = measure("rest", tmp_path, "smoke")
    check_rest(lines)
    assert "«" in output
    assert lines[3]["M"] > 2
