"""The experiments of `reduced.py` with the paper's positions: RoPE and no aid of ours.

--config=experiments/configs/reduced_rope.py:multitask       the whole method
"""

from ml_collections import ConfigDict

from experiments.configs import reduced, relay_recipe

TERAFLOPS = reduced.TERAFLOPS


def get_config(name: str = "arithmetic") -> ConfigDict:
    """`name`: a task or `multitask`, optionally followed by a slash and a run."""
    plans, run = relay_recipe.select_plans(reduced.PLANS, name)
    experiment = reduced.reduced_experiment(plans)
    for each in experiment["runs"].values():
        each["model"] = each["model"] | {"position": {"scheme": "rope"}}
    return ConfigDict(relay_recipe.select_run(experiment, run))
