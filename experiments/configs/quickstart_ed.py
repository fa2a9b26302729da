"""RELAY on edit distance: trained on shorter strings of up to 8 letters, tested to 16.
The looped model hears its rounds through memory channel and pointer, as differences."""

from ml_collections import ConfigDict

from experiments.configs import quickstart, relay_recipe

PLANS = [
    relay_recipe.TaskPlan(
        task="edit_distance",
        options={"using": 8, "max_extra": 2},
        train=(1, 8),
        test=(1, 16),
        chains={str(n): 2000 for n in range(9, 17)},
        within=16_000,
        train_options=(("max_extra", 8),),  # longer rows are met in training
        merged_buckets=4,
        eval_step=4,
    )
]
NUM_NUMBERS = 64
ALL_MODELS = {"num_heads": 4, "number_code": "digits"}  # texts are long: few heads
LOOPED = {
    "model": {"differences": True},
    "optimizer": {"learning_rate": 5e-3, "weight_decay": 0.1},
    "loss": {"answer_weight": 0.3},
}
# The AR model has to find its place in the row above by counting from the last comma,
# which a bias that knows 24 distances lets it do. It starts with short strings, or it
# does not find out that letters are to be compared; the longest rows come last.
DECODER = {"model": {"position": {"max_distance": 24}}}
SHORT = relay_recipe.original_buckets(PLANS)["edit_distance"] | {
    "options": PLANS[0].options,
    "lengths": (1, 3),
}
AR = DECODER | {
    "optimizer": {"learning_rate": 5e-3, "weight_decay": 0.1, "constant_share": 0.6},
    "data": {
        "buckets": {
            "short_strings": SHORT | {"weight": 0.15},
            "usual_strings": SHORT
            | {"lengths": PLANS[0].train, "weight": 0.5, "start_share": 0.2},
            "edit_distance": {"weight": 0.35, "start_share": 0.5},
        }
    },
}
STEPS = {
    "looped_aligned": 2000,
    "ar": 8000,
    "looped_vanilla": 600,
    "ar_relay": 1200,
    "ar_control": 1200,
}


def get_config(run: str = "") -> ConfigDict:
    return ConfigDict(
        quickstart.quickstart(
            PLANS,
            NUM_NUMBERS,
            STEPS,
            run,
            {"looped_aligned": LOOPED, "ar": AR}
            | dict.fromkeys(("ar_relay", "ar_control"), DECODER),
            ALL_MODELS,
        )
    )
