"""RELAY on longest increasing subsequence, in groups of 5: trained on up to 20 numbers,
tested to 40. The looped model hears its rounds through memory channel and pointer."""

from ml_collections import ConfigDict

from experiments.configs import quickstart, relay_recipe

PLANS = [
    relay_recipe.TaskPlan(
        task="lis",
        options={"group": 5, "smallest": 41, "number_range": 99},
        train=(1, 20),
        test=(1, 40),
        chains={str(n): 800 for n in range(21, 41)},
        within=12_000,
        merged_buckets=4,
        eval_step=5,
    )
]
NUM_NUMBERS = 120
# Content decides here, not distance.
ALL_MODELS = {
    "num_layers": 5,
    "num_heads": 4,
    "number_code": "ordinal",
    "position": {"directional_heads": False, "distance_slopes": False},
}
# A heavy answer loss holds back the rounds; counting from a random start shows values
# that only longer problems have.
LOOPED = {
    "optimizer": {"learning_rate": 5e-3, "weight_decay": 0.1},
    "loss": {"answer_weight": 0.1, "max_value_offset": {"lis": 20}},
}
STEPS = {
    "looped_aligned": 4500,
    "ar": 5000,
    "looped_vanilla": 1000,
    "ar_relay": 1200,
    "ar_control": 1200,
}


def get_config(run: str = "") -> ConfigDict:
    return ConfigDict(
        quickstart.quickstart(
            PLANS, NUM_NUMBERS, STEPS, run, {"looped_aligned": LOOPED}, ALL_MODELS
        )
    )
