"""RELAY on longest increasing subsequence, in groups of 5: trained on up to 20 numbers,
tested to 40. The looped model hears its rounds through memory channel and pointer."""

from ml_collections import ConfigDict

from experiments.configs import quickstart, recipe

PLANS = [
    recipe.TaskPlan(
        task="lis",
        options={"group": 5, "number_range": 50},
        train=(1, 20),
        test=(1, 40),
        chains={str(n): 800 for n in range(21, 41)},
        within=12_000,
        merged_buckets=4,
    )
]
NUM_NUMBERS = 64
LOOPED = {"number_code": "ordinal"}
STEPS = {
    "looped_aligned": 3000,
    "ar": 3000,
    "looped_vanilla": 1500,
    "ar_relay": 2000,
    "ar_control": 2000,
}


def get_config(run: str = "") -> ConfigDict:
    return ConfigDict(
        quickstart.quickstart(PLANS, NUM_NUMBERS, STEPS, run, LOOPED, eval_step=5)
    )
