"""The paper's baselines (section 4.3) at the quickstart's size: the AR model learns its own
chains, one length further in each of four phases, kept where the vanilla looped model
(`ar_self_loop_N`) or the truth (`ar_self_oracle_N`) agrees with the answer."""

from ml_collections import ConfigDict

from experiments.configs import quickstart, relay_recipe

COUNTS = (4000, 4000, 4000, 4000)  # new chains a phase
PHASE_STEPS = 200


def get_config(run: str = "") -> ConfigDict:
    config = quickstart.get_config().to_dict()
    kept = ("ar", "looped_vanilla")
    config = {"runs": {name: config["runs"][name] for name in kept}, "chains": {}}
    phase = {"num_steps": PHASE_STEPS}
    counts = {plan.task: COUNTS for plan in quickstart.PLANS}
    relay_recipe.add_self_made(config, quickstart.PLANS, counts, phase)
    return ConfigDict(relay_recipe.choose(config, run))
