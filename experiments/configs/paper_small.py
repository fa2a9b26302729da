"""The experiments of `paper.py` at the sizes of `small.py`.

    --config=experiments/configs/paper_small.py:multitask            the whole method

The paper's recipe learns slowly: at this size it is a test of the pipeline, no more.
"""

from ml_collections import ConfigDict

from experiments.configs import paper, relay_recipe, small

PLANS = {
    name: plan._replace(train_options=(), num_chain_buckets=2)
    for name, plan in small.PLANS.items()
}
SIZE = small.SIZE | {"step_fraction": 1 / 10_000, "min_steps": 20}


def get_config(name: str = "arithmetic") -> ConfigDict:
    """`name`: a task or `multitask`, optionally followed by a slash and a run."""
    plans, run = relay_recipe.select_plans(PLANS, name)
    experiment = paper.paper_experiment(plans, small.SELF_MADE)
    experiment = relay_recipe.scale_down(experiment, **SIZE)
    return ConfigDict(relay_recipe.select_run(experiment, run))
