"""The experiments of `paper.py` at the sizes of `small.py`.

    --config=experiments/configs/paper_small.py:multitask            the whole method

The paper's recipe learns slowly: at this size it shows that everything works, no more.
"""

from ml_collections import ConfigDict

from experiments.configs import paper, relay_recipe, small

PLANS = {
    name: plan._replace(train_options=(), merged_buckets=2)
    for name, plan in small.PLANS.items()
}
SIZE = small.SIZE | {"step_share": 1 / 10_000, "min_steps": 20}


def get_config(which: str = "arithmetic") -> ConfigDict:
    """`which`: a task or `multitask`, and after a slash the name of one run."""
    plans, run = relay_recipe.select(PLANS, which)
    config = relay_recipe.resize(paper.paper(plans, small.SELF_MADE), **SIZE)
    return ConfigDict(relay_recipe.choose(config, run))
