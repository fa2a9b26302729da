"""RELAY on all three tasks with one model: the plans of the three quickstarts."""

from ml_collections import ConfigDict

from experiments.configs import (
    quickstart,
    quickstart_ed,
    quickstart_lis,
)

PLANS = quickstart.PLANS + quickstart_ed.PLANS + quickstart_lis.PLANS
NUM_NUMBERS = 64
LOOPED = quickstart_ed.LOOPED
STEPS = {
    "looped_aligned": 8000,
    "ar": 8000,
    "looped_vanilla": 3000,
    "ar_relay": 5000,
    "ar_control": 5000,
}


def get_config(run: str = "") -> ConfigDict:
    return ConfigDict(quickstart.quickstart(PLANS, NUM_NUMBERS, STEPS, run, LOOPED))
