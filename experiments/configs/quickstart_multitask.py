"""RELAY on all three tasks with one model: the plans of the three quickstarts."""

from ml_collections import ConfigDict

from experiments.configs import quickstart, quickstart_ed, quickstart_lis

PLANS = quickstart.PLANS + quickstart_ed.PLANS + quickstart_lis.PLANS
NUM_NUMBERS = 120
ALL_MODELS = {"num_layers": 5, "number_code": "ordinal"}


def shares(**of_buckets: float) -> dict:
    return {name: {"weight": share} for name, share in of_buckets.items()}


# What a task's own quickstart practises alone, this one does; LIS, the hardest to learn,
# has the largest share.
FIRST_ROUNDS = quickstart.LOOPED["data"]["buckets"]["first_rounds"]
LOOPED = {
    "optimizer": {"learning_rate": 5e-3, "weight_decay": 0.1},
    "loss": {"answer_weight": 0.1, "max_value_offset": {"lis": 20}},
    "model": {"differences": True},
    "data": {
        "buckets": shares(arithmetic=0.1, edit_distance=0.25, lis=0.35)
        | {"first_rounds": FIRST_ROUNDS | {"weight": 0.3}}
    },
}
AR = {
    "optimizer": {"constant_share": 0.75},
    "data": {
        "buckets": shares(arithmetic=0.15, lis=0.3)
        | {
            "short_strings": quickstart_ed.SHORT | {"weight": 0.3},
            "edit_distance": {"weight": 0.6, "start_share": 0.5},
        }
    },
}
STEPS = {
    "looped_aligned": 8000,
    "ar": 9000,
    "looped_vanilla": 1200,
    "ar_relay": 800,
    "ar_control": 800,
}


def get_config(run: str = "") -> ConfigDict:
    return ConfigDict(
        quickstart.quickstart(
            PLANS,
            NUM_NUMBERS,
            STEPS,
            run,
            {"looped_aligned": LOOPED, "ar": AR},
            ALL_MODELS,
        )
    )
