"""Training gives the recorded results: bit for bit those of before the code was rearranged
(November 2026), but for arithmetic, whose problems have changed since (`golden/train.py`).

On the processor and the jaxlib that recorded them, parameters are the same bit for bit;
elsewhere rounding differs, and only the norm of the parameters is compared. Decoding gives
the same tokens everywhere, and on that machine the same steps and drafts.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from relay_jax.rest.drafters import DRAFTERS
from tests.golden.decode import GOLDEN, SAMPLINGS
from tests.golden.train import CASES, FILE, machine

ROOT = pathlib.Path(__file__).parents[1]
RECORDED = json.loads(FILE.read_text())
QUICK = [("tiny", 20)]


def run(script, *arguments):
    """What a script of tests/golden prints, as JSON."""
    # A process of its own: the flags of this one (conftest.py) change the last bits.
    unset = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    environment = {k: v for k, v in os.environ.items() if k not in unset}
    environment |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/golden" / script), *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(name, num_steps):
    found = run("train.py", name, str(num_steps))
    expected = RECORDED["runs"][f"{name} {num_steps}"]
    assert found["norm"] == pytest.approx(expected["norm"], rel=0.02)
    if machine() == RECORDED["machine"]:
        assert found["sha256"] == expected["sha256"]


@pytest.mark.parametrize(
    "sampling", ["sampled", pytest.param("greedy", marks=pytest.mark.slow)]
)
def test_every_drafter_decodes_as_recorded(sampling):
    cases = {case: GOLDEN[case] for case in GOLDEN if case.endswith(sampling)}
    found = run("decode.py", sampling)
    assert found.keys() == cases.keys()
    for case, expected in cases.items():
        assert found[case]["tokens"] == expected["tokens"], case
        if machine() == RECORDED["machine"]:
            assert found[case] == expected, case


def test_the_record_of_decoding_tells_drafters_apart():
    assert {case.split("/")[0].removesuffix("_recent") for case in GOLDEN} == {
        *DRAFTERS
    }
    for sampling in SAMPLINGS:
        cases = [GOLDEN[case] for case in GOLDEN if case.endswith(sampling)]
        texts = {json.dumps(case["tokens"]) for case in cases}
        assert len(texts) == 1  # no drafter changes a text
        assert len({json.dumps(case["steps"]) for case in cases}) > 5
    greedy, sampled = GOLDEN["none/greedy"], GOLDEN["none/sampled"]
    assert greedy["tokens"] != sampled["tokens"]


@pytest.mark.parametrize(("name", "num_steps"), QUICK)
def test_a_short_run_is_the_recorded_one(name, num_steps):
    check(name, num_steps)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num_steps"), [c for c in CASES if c not in QUICK])
def test_every_quickstart_model_is_the_recorded_one(name, num_steps):
    check(name, num_steps)
