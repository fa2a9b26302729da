"""RELAY in minutes on two CPU cores: small models, trained on short problems, tested at
up to twice the length.

    --config=experiments/configs/quickstart.py:lis                  the whole method
    --config=experiments/configs/quickstart.py:lis/looped_aligned   one run, for train.py

`EXPERIMENTS` lists the experiments: each task, all tasks in one model (`multitask`),
and the paper's self-made-chain baselines on arithmetic (`self_made`).

`looped_aligned` and `looped_vanilla` have the paper's loop, which carries the hidden
state and sees the problem once. `looped_feedback` is this project's extension: it feeds
its rounds back through a scratchpad.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from experiments.configs import curricula, relay_recipe
from experiments.configs.relay_recipe import TaskPlan, merge_dicts


class Settings(NamedTuple):
    """What distinguishes one task's quickstart from the others'."""

    plans: list[TaskPlan]
    num_numbers: int  # in the vocabulary
    num_steps: dict[str, int]  # by run
    model: dict  # changes to every model
    runs: dict[str, dict]  # changes to single runs


def fine_tuning_steps(num_steps: int) -> dict[str, int]:
    """Both fine-tuned models train for the same number of steps."""
    return dict.fromkeys(("ar_relay", "ar_control"), num_steps)


def weights(**by_bucket: float) -> dict:
    return {name: {"weight": weight} for name, weight in by_bucket.items()}


# Averaged parameters at a constant learning rate extrapolate further than the last ones
# after a decay.
STEADY = {"constant_share": 0.95, "average_share": 0.1}

# Arithmetic modulo 5, up to 4 operators.
ARITHMETIC_PLAN = TaskPlan(
    task="arithmetic",
    options={"modulus": 5},
    train_lengths=(1, 4),
    test_lengths=(1, 8),
    chain_counts={"5": 4000, "6": 4000, "7": 4000, "8": 4000},
    num_originals=12_000,
    train_options=(("right_heavy", True),),
    num_chain_buckets=4,
)
ALIGNED_ARITHMETIC = curricula.aligned(ARITHMETIC_PLAN)
MOSTLY_FIRST_ROUNDS = merge_dicts(
    ALIGNED_ARITHMETIC, weights(arithmetic=0.25, first_rounds=0.75)
)
ARITHMETIC = Settings(
    plans=[ARITHMETIC_PLAN],
    num_numbers=8,
    num_steps={
        "looped_aligned": 9000,
        "ar": 1200,
        "looped_vanilla": 9000,
        "looped_feedback": 6000,
    }
    | fine_tuning_steps(800),
    # From two positions left of an innermost bracket its end is 6 away; with 8 distances
    # the model can distinguish this end from those further right.
    model={"position": {"max_distance": 8}},
    runs={
        "looped_aligned": {
            "optimizer": STEADY,
            "data": {"batch_size": 64, "buckets": ALIGNED_ARITHMETIC},
        },
        "looped_vanilla": {
            "optimizer": STEADY,
            "data": {"batch_size": 64, "buckets": curricula.vanilla(ARITHMETIC_PLAN)},
        },
        # With rounds fed back, AdamW extrapolates to longer problems than Muon does, and
        # a chain is as many independent rounds: three of four steps train first rounds
        # alone, as these are the longest and cost a quarter of a chain.
        "looped_feedback": {
            "optimizer": STEADY | {"kind": "adamw"},
            "data": {"buckets": MOSTLY_FIRST_ROUNDS},
        },
    },
)

# Edit distance of strings of up to 6 letters, shorter ones among them.
EDIT_DISTANCE_PLAN = TaskPlan(
    task="edit_distance",
    options={"using": 8, "max_extra": 2},
    train_lengths=(1, 6),
    test_lengths=(1, 12),
    chain_counts={str(n): 2000 for n in range(7, 13)},
    num_originals=12_000,
    train_options=(("max_extra", 8),),  # so that training includes longer rows
    num_chain_buckets=4,
    eval_length_step=2,
)
# The AR model must find its position in the previous row by counting from the last
# comma, which a relative bias of 24 distances permits.
EDIT_DISTANCE_DECODER = {"model": {"position": {"max_distance": 24}}}
EDIT_DISTANCE = Settings(
    plans=[EDIT_DISTANCE_PLAN],
    num_numbers=64,
    num_steps={
        "looped_aligned": 9000,
        "ar": 5000,
        "looped_vanilla": 5000,
        "looped_feedback": 2000,
    }
    | fine_tuning_steps(800),
    # Few heads, as sequences are long.
    model={"num_heads": 4, "number_code": "waves"},
    runs={
        "looped_aligned": {
            "optimizer": STEADY,
            "loss": {"answer_weight": 0.3},
            "data": {
                "batch_size": 64,
                "buckets": curricula.aligned(EDIT_DISTANCE_PLAN),
            },
        },
        "looped_vanilla": {
            "optimizer": STEADY,
            "data": {
                "batch_size": 64,
                "buckets": curricula.vanilla(EDIT_DISTANCE_PLAN),
            },
        },
        "looped_feedback": {
            "model": {"differences": True, "number_code": "digits"},
            "optimizer": {"learning_rate": 5e-3, "weight_decay": 0.1},
            "loss": {"answer_weight": 0.3},
        },
        "ar": EDIT_DISTANCE_DECODER
        | {
            "optimizer": {
                "learning_rate": 5e-3,
                "weight_decay": 0.1,
                "constant_share": 0.6,
            },
            "data": {"buckets": curricula.ar(EDIT_DISTANCE_PLAN)},
        },
        "ar_relay": EDIT_DISTANCE_DECODER,
        "ar_control": EDIT_DISTANCE_DECODER,
    },
)

# Longest increasing subsequence of up to 15 numbers, in groups of 3. Written as waves,
# more chains of longer problems are right than digit by digit.
LIS_PLAN = TaskPlan(
    task="lis",
    options={"group": 3, "smallest": 41, "number_range": 99},
    train_lengths=(1, 15),
    test_lengths=(1, 30),
    chain_counts={str(n): 800 for n in range(16, 31)},
    num_originals=12_000,
    num_chain_buckets=4,
    eval_length_step=3,
)
# A heavy answer loss slows down learning the rounds.
LIS_ANSWERS = {"answer_weight": 0.1}
LIS_FEEDBACK = {
    "optimizer": {"learning_rate": 5e-3, "weight_decay": 0.1},
    # The value offset shows values that otherwise only longer problems have.
    "loss": LIS_ANSWERS | {"max_value_offset": {"lis": 15}},
}
LIS = Settings(
    plans=[LIS_PLAN],
    num_numbers=120,
    num_steps={
        "looped_aligned": 9000,
        "ar": 4000,
        "looped_vanilla": 6000,
        "looped_feedback": 3000,
    }
    | fine_tuning_steps(800),
    model={
        "num_heads": 4,
        "number_code": "waves",
        # Attention depends on content here, not on distance.
        "position": {"directional_heads": False, "distance_slopes": False},
    },
    runs={
        "looped_aligned": {
            "optimizer": STEADY | {"weight_decay": 0.1},
            "loss": LIS_ANSWERS,
            "data": {"batch_size": 64, "buckets": curricula.aligned(LIS_PLAN)},
        },
        "looped_vanilla": {
            "optimizer": STEADY | {"weight_decay": 0.1},
            "data": {"batch_size": 64, "buckets": curricula.vanilla(LIS_PLAN)},
        },
        "looped_feedback": LIS_FEEDBACK | {"model": {"number_code": "ordinal"}},
    },
)

ALL_PLANS = [ARITHMETIC_PLAN, EDIT_DISTANCE_PLAN, LIS_PLAN]
MULTITASK = Settings(
    plans=ALL_PLANS,
    num_numbers=120,
    num_steps={
        "looped_aligned": 15_000,
        "ar": 9000,
        "looped_vanilla": 12_000,
        "looped_feedback": 8000,
    }
    | fine_tuning_steps(800),
    model={"number_code": "waves"},
    runs={
        "looped_aligned": {
            "optimizer": STEADY,
            "loss": LIS_ANSWERS,
            "data": {
                "batch_size": 64,
                "buckets": curricula.together(map(curricula.aligned, ALL_PLANS)),
            },
        },
        "looped_vanilla": {
            "optimizer": STEADY,
            "data": {
                "batch_size": 64,
                "buckets": curricula.together(map(curricula.vanilla, ALL_PLANS)),
            },
        },
        "looped_feedback": LIS_FEEDBACK
        | {
            "model": {"differences": True, "number_code": "ordinal"},
            "data": {
                "buckets": merge_dicts(
                    ALIGNED_ARITHMETIC,
                    weights(
                        arithmetic=0.1, edit_distance=0.25, lis=0.35, first_rounds=0.3
                    ),
                )
            },
        },
        "ar": {
            "optimizer": {"constant_share": 0.75},
            "data": {"buckets": curricula.together(map(curricula.ar, ALL_PLANS))},
        },
    },
)

TASKS = {
    "arithmetic": ARITHMETIC,
    "edit_distance": EDIT_DISTANCE,
    "lis": LIS,
    relay_recipe.MULTITASK: MULTITASK,
}
SELF_MADE = "self_made"
SELF_MADE_COUNTS = (4000, 4000, 4000, 4000)  # new chains in each phase
SELF_MADE_STEPS = 200  # of each phase
EXPERIMENTS = (*TASKS, SELF_MADE)


def get_config(name: str = "arithmetic") -> ConfigDict:
    """`name`: one of `EXPERIMENTS`, optionally followed by a slash and a run."""
    experiment, run = relay_recipe.split_name(name, EXPERIMENTS)
    if experiment == SELF_MADE:
        values = self_made_baselines(ARITHMETIC)
    else:
        values = relay_experiment(TASKS[experiment])
    return ConfigDict(relay_recipe.select_run(values, run))


def self_made_baselines(settings: Settings) -> dict:
    """The baselines of section 4.3 of the paper: the AR model learns its own chains,
    one length longer in each of four phases, filtered by the vanilla looped model
    (`ar_self_loop_N`) or by the correct answer (`ar_self_oracle_N`)."""
    runs = relay_experiment(settings)["runs"]
    names = ("ar", "looped_vanilla")
    experiment = {"runs": {name: runs[name] for name in names}, "chains": {}}
    counts = {plan.task: SELF_MADE_COUNTS for plan in settings.plans}
    fine_tuning = {"num_steps": SELF_MADE_STEPS}
    relay_recipe.add_self_made_chains(experiment, settings.plans, counts, fine_tuning)
    return experiment


def relay_experiment(settings: Settings) -> dict:
    """The six models and the chains of a task: 64 wide and 3 layers."""
    position = {
        "scheme": "relative_bias",
        "max_distance": 6,
        "bias_scale": 8.0,
        "distance_slopes": True,
        "log_length_scaling": True,
    }
    model = {
        "num_layers": 3,
        "dim": 64,
        "num_heads": 8,
        "mlp_dim": 256,
        "activation": "relu",  # on a CPU, GELU takes a fifth of a step
        "num_numbers": settings.num_numbers,
        "dropout": 0.0,
        "remat": True,  # faster on a CPU, where storing costs more than recomputing
    }
    bidirectional = {"position": position | {"directional_heads": True}}
    looped = merge_dicts(model | bidirectional | {"kind": "looped"}, settings.model)
    # Sequences are long, and fewer heads are faster; the number of parameters is equal.
    causal = {"kind": "decoder", "num_heads": 4, "position": position}
    decoder = merge_dicts(model | causal, settings.model)
    runs = {
        "looped_aligned": {"model": looped},
        "ar": {"model": decoder},
        "looped_vanilla": {"model": looped, "loss": {"round_weight": 0.0}},
        "looped_feedback": {"model": looped | {"input_injection": "feedback"}},
        "ar_relay": {"model": decoder},
        "ar_control": {"model": decoder},
    }
    for name, values in runs.items():
        changed = merge_dicts(values, settings.runs.get(name, {}))
        runs[name] = changed | {"num_steps": settings.num_steps[name]}
    common = {
        "optimizer": {
            "kind": "muon",
            "learning_rate": 3e-3,
            "warmup_share": 0.05,
            "constant_share": 0.5,
            "weight_decay": 0.3,
            "b2": 0.98,
        },
        "data": {"batch_size": 32},
        "evaluation": relay_recipe.evaluation_settings(
            settings.plans, every_steps=2000, during=64, final=1024
        ),
        "log_every_steps": 50,
        "checkpoint_every_seconds": 20.0,
    }
    return relay_recipe.make_experiment(settings.plans, runs, common)
