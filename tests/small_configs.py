"""The configs of `experiments` made small, for commands that are run to see them work.

`write(folder)` puts a file of the same name, with the same arguments, for each of them
into FOLDER/experiments/configs, so that documented commands run there unchanged.
"""

import pathlib
from typing import Any

from ml_collections import ConfigDict

ROOT = pathlib.Path(__file__).parents[1]
SIZES = {"num_layers": 1, "dim": 16, "num_heads": 4, "mlp_dim": 16}
SMALL = """
from experiments.configs import {name}
from tests.small_configs import shrink

def get_config(*arguments):
    return shrink({name}.get_config(*arguments))
"""


def write(folder: pathlib.Path) -> None:
    configs = folder / "experiments" / "configs"
    configs.mkdir(parents=True)
    for file in (ROOT / "experiments" / "configs").glob("*.py"):
        (configs / file.name).write_text(SMALL.format(name=file.stem))


def shrink(config: ConfigDict) -> ConfigDict:
    """A config of any kind, with tiny models and few steps, problems and chains."""
    values = config.to_dict()
    if "corpus" in values:
        return ConfigDict(values | _language_model(values))
    if "counts" in values:
        return ConfigDict(values | _chains(values))
    if "runs" in values:
        return ConfigDict(values | _experiment(values))
    return ConfigDict(_short_problems(_run(values, num_steps=4)))


def _run(run: dict[str, Any], num_steps: int) -> dict[str, Any]:
    run["model"] |= SIZES
    run["data"] |= {"batch_size": 16, "num_workers": 0}
    run["evaluation"] |= {"final": 4, "during": 4, "batch_size": 16}
    return run | {"num_steps": num_steps}


def _short_problems(run: dict[str, Any]) -> dict[str, Any]:
    """Of two rounds at most."""
    for bucket in run["data"]["buckets"].values():
        bucket["lengths"] = (11, 12) if bucket["task"] == "lis" else (1, 2)
    lengths = run["evaluation"]["lengths"]
    for task in lengths:
        lengths[task] = (11, 12) if task == "lis" else (1, 2)
    return run


def _language_model(values: dict[str, Any]) -> dict[str, Any]:
    train = _run(values["train"], num_steps=4)
    train["model"] |= {"text_vocab_size": 400}
    train["evaluation"] |= {"context": 32}
    for bucket in train["data"]["buckets"].values():
        bucket["lengths"] = (32, 32)
    corpus = values["corpus"] | {"folder": "src", "held_out_one_in": 2}
    return {"train": train, "corpus": corpus}


def _chains(chains: dict[str, Any]) -> dict[str, Any]:
    return chains | {"counts": dict.fromkeys(chains["counts"], 4), "filter": "none"}


def _experiment(values: dict[str, Any]) -> dict[str, Any]:
    """After fewer steps a model may predict no answer, so that no chain is usable."""
    sources = {chains["model"] for chains in values["chains"].values()}
    return {
        "runs": {
            name: _run(run, num_steps=60 if name in sources else 4)
            for name, run in values["runs"].items()
        },
        "chains": {name: _chains(chains) for name, chains in values["chains"].items()},
    }
