"""RELAY on all three tasks with one model: the plans of the three quickstarts."""

from ml_collections import ConfigDict

from experiments.configs import (
    quickstart,
    quickstart_ed,
    quickstart_lis,
)

PLANS = quickstart.PLANS + quickstart_ed.PLANS + quickstart_lis.PLANS
NUM_NUMBERS = 120
ALL_MODELS = {"num_layers": 5, "number_code": "ordinal"}
LOOPED = {
    "model": {"differences": True},
    "optimizer": {"learning_rate": 5e-3, "weight_decay": 0.1},
    "loss": {"answer_weight": 0.1, "max_shift": {"lis": 20}},
}
STEPS = {
    "looped_aligned": 8000,
    "ar": 6000,
    "looped_vanilla": 3000,
    "ar_relay": 2000,
    "ar_control": 2000,
}


def get_config(run: str = "") -> ConfigDict:
    return ConfigDict(
        quickstart.quickstart(PLANS, NUM_NUMBERS, STEPS, run, LOOPED, ALL_MODELS)
    )
