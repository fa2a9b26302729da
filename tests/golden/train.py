"""Trains one golden case in a process of its own and prints its parameters' hash and norm.

    python tests/golden/train.py tiny 20
    python tests/golden/train.py arithmetic/looped_aligned 200

`tests/test_same_results.py` compares them with `train.json`. To record again those that a
change is meant to change, by their names or the first words of these, or all:

    python tests/golden/train.py --record tiny arithmetic multitask

Those of tiny, arithmetic and multitask are of the commit "Draw arithmetic problems as the
published generator does"; the others are untouched, from before the code was rearranged.
"""

import hashlib
import json
import os
import pathlib
import sys
import tempfile

if __name__ == "__main__":  # how sums are split over threads changes their last bits
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax
import jaxlib
import numpy as np

from experiments.configs import quickstart, tiny
from relay_jax import config_io
from relay_jax.config import TrainConfig
from relay_jax.training import checkpoint, loop

FILE = pathlib.Path(__file__).with_name("train.json")
TASKS = ("arithmetic", "edit_distance", "lis", "multitask")
RUNS = ("looped_aligned", "looped_vanilla", "looped_feedback", "ar")
CASES = [("tiny", 20), ("tiny", 1500)] + [
    (f"{task}/{run}", 200) for task in TASKS for run in RUNS
]


def train(name: str, num_steps: int) -> dict[str, str | float]:
    """Trains a config of the quickstart (TASK/RUN) or `tiny`; hardly evaluates."""
    config = tiny.get_config() if name == "tiny" else quickstart.get_config(name)
    values = config.to_dict() | {"num_steps": num_steps}
    lengths = {k: (v[0], v[0]) for k, v in values["evaluation"]["lengths"].items()}
    values["evaluation"] |= {"every_steps": 10**6, "final": 2, "lengths": lengths}
    with tempfile.TemporaryDirectory() as workdir:
        loop.train(config_io.build(TrainConfig, values), f"{workdir}/run")
        _, params = checkpoint.load_params(f"{workdir}/run")
    squares = [
        np.sum(np.square(np.asarray(x, np.float64))) for x in jax.tree.leaves(params)
    ]
    return {
        "sha256": checkpoint.hash_params(params),
        "norm": float(np.sqrt(sum(squares))),
    }


def machine() -> str:
    """What the last bits of a result depend on: the processor and the compiler."""
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    cpu = sorted({line for line in lines if line.startswith(("model name", "flags"))})
    digest = hashlib.sha256("\n".join(cpu).encode()).hexdigest()[:12]
    return f"{digest} jaxlib {jaxlib.__version__}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--record"]:
        recorded = json.loads(FILE.read_text())
        if len(sys.argv) > 2 and recorded["machine"] != machine():
            sys.exit(
                f"train.json is of another machine, {recorded['machine']}: record all"
            )
        for name, steps in CASES:
            if not sys.argv[2:] or {name, name.split("/")[0]} & {*sys.argv[2:]}:
                recorded["runs"][f"{name} {steps}"] = train(name, steps)
                recorded["machine"] = machine()
                FILE.write_text(json.dumps(recorded, indent=1))
    else:
        print(json.dumps(train(sys.argv[1], int(sys.argv[2]))))
