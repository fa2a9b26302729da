"""The stages of the RELAY method, as dicts: what the quickstarts and the paper share.

ar, looped_vanilla, looped_aligned      trained on the original lengths
chains                                  written by looped_aligned for longer ones
ar_relay                                ar, trained on with both
ar_control                              ar, trained as long on the former's problems of
                                        the original lengths, without the chains
ar_self_loop_N, ar_self_oracle_N        the paper's baselines: N phases in which ar
                                        learns its own chains, one length further each
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from relay_jax import config as configs
from relay_jax import config_io

MULTITASK = "multitask"
RUNS = ("looped_aligned", "ar", "looped_vanilla", "ar_relay", "ar_control")


class TaskPlan(NamedTuple):
    """What one task contributes to an experiment."""

    task: str
    options: dict[str, Any]
    train: tuple[int, int]  # lengths
    test: tuple[int, int]
    chains: dict[str, int]  # chains to write for each length beyond training
    within: int  # original samples that they are merged with (Table 3)
    train_options: tuple[tuple[str, Any], ...] = ()  # changes of `options` in training
    merged_buckets: int = 1  # the chains' lengths are split into this many buckets
    eval_step: int = 1  # every how many lengths are evaluated


def original_buckets(plans: list[TaskPlan]) -> dict[str, dict]:
    """On-the-fly problems of the training lengths."""
    return {
        plan.task: {
            "task": plan.task,
            "options": plan.options | dict(plan.train_options),
            "lengths": plan.train,
            "weight": 1.0 / len(plans),
        }
        for plan in plans
    }


def merged_buckets(plans: list[TaskPlan]) -> dict[str, dict]:
    """Original problems and written chains in the shares of Table 3."""
    buckets = {}
    for plan in plans:
        total = (plan.within + sum(plan.chains.values())) * len(plans)
        common = {"task": plan.task, "options": plan.options}
        buckets[plan.task] = common | {
            "lengths": plan.train,
            "weight": plan.within / total,
        }
        for lengths in _split(sorted(map(int, plan.chains)), plan.merged_buckets):
            counts = [plan.chains[str(length)] for length in lengths]
            buckets[f"{plan.task}_{lengths[0]}"] = common | {
                "kind": "chains",
                "path": chains_name(plan),
                "lengths": (lengths[0], lengths[-1]),
                "weight": sum(counts) / total,
            }
    return buckets


def chains_name(plan: TaskPlan) -> str:
    return f"chains_{plan.task}"


def written_chains(plans: list[TaskPlan], **rest) -> dict[str, dict]:
    """Stage II: the aligned looped model writes."""
    return {
        chains_name(plan): {
            "task": plan.task,
            "options": plan.options,
            "model": "looped_aligned",
            "counts": plan.chains,
        }
        | rest
        for plan in plans
    }


def whole(
    plans: list[TaskPlan], runs: Mapping[str, dict], train: dict, run: str = ""
) -> dict:
    """The method as a RelayConfig's dict, or one of its runs.

    Args:
      runs: for each of `RUNS` its model, steps and whatever it changes in `train`.
      train: the fields that all runs share.
    """
    original, merged = original_buckets(plans), merged_buckets(plans)
    merged_originals = {k: b for k, b in merged.items() if b.get("kind") != "chains"}
    made = {}
    for name, own in runs.items():
        buckets = {"ar_relay": merged, "ar_control": merged_originals}.get(
            name, original
        )
        named = {"name": name, "data": {"buckets": buckets}}
        config = merge(merge(train, named), own)
        if name in ("ar_relay", "ar_control"):
            config["init_from"] = "ar"
        made[name] = config
    return choose({"runs": made, "chains": written_chains(plans)}, run)


def choose(config: dict, run: str) -> dict:
    """The whole experiment, or one of its runs; every field is there to be set."""
    if run and run not in config["runs"]:
        raise ValueError(
            f"unknown run {run!r}; this experiment has {', '.join(config['runs'])}"
        )
    if run:
        return config_io.complete(configs.TrainConfig, config["runs"][run])
    return config_io.complete(configs.RelayConfig, config)


def evaluation(plans: list[TaskPlan], **rest) -> dict:
    """Every task at all its lengths, with the problems of the paper."""
    return {
        "lengths": {plan.task: (plan.train[0], plan.test[1]) for plan in plans},
        "options": {plan.task: plan.options for plan in plans},
        "step": {plan.task: plan.eval_step for plan in plans},
    } | rest


def add_self_made(
    config: dict,
    plans: list[TaskPlan],
    counts: Mapping[str, tuple[int, ...]],
    fine_tune: dict,
) -> None:
    """Adds the self-made-chain baselines of section 4.3 (Table 4) to a RelayConfig's
    dict: in each phase the AR model learns its own chains, of each task's next length;
    twice: kept where the vanilla looped model, or the truth, agrees with the answer. A
    phase has fewer chains, or none, of a task that the model cannot do at that length.

    Args:
      counts: of each task, new chains in each phase. In the last phase all the chains
        together weigh as much as the original problems.
    """
    choices = {
        "loop": {"filter": "answer_agrees", "judge": "looped_vanilla"},
        "oracle": {"filter": "oracle"},
    }
    num_phases = len(counts[plans[0].task])
    for kind, kept in choices.items():
        before, buckets = "ar", original_buckets(plans)
        for phase in range(1, num_phases + 1):
            for plan in plans:
                count = counts[plan.task][phase - 1]
                length = plan.train[1] + phase
                chains = f"chains_self_{kind}_{phase}"
                chains += f"_{plan.task}" if len(plans) > 1 else ""
                common = {"task": plan.task, "options": plan.options}
                config["chains"][chains] = (
                    common
                    | kept
                    | {
                        "model": before,
                        "counts": {str(length): count},
                        "allow_fewer": True,
                    }
                )
                share = count / sum(counts[plan.task]) / len(plans)
                buckets = buckets | {
                    chains: common
                    | {"kind": "chains", "path": chains, "lengths": (length, length)}
                    | {"weight": share}
                }
            name = f"ar_self_{kind}_{phase}"
            config["runs"][name] = config["runs"]["ar"] | fine_tune
            config["runs"][name] |= {"name": name, "init_from": before}
            data = config["runs"]["ar"]["data"]
            config["runs"][name]["data"] = data | {"buckets": buckets}
            before = name


def select(plans: Mapping[str, TaskPlan], which: str) -> tuple[list[TaskPlan], str]:
    """`"lis/ar"` -> the plans of one task, or of all for `multitask`, and a run's name.

    Raises:
      ValueError: there is no such experiment.
    """
    name, _, run = which.partition("/")
    if name == MULTITASK:
        return list(plans.values()), run
    if name not in plans:
        raise ValueError(
            f"unknown experiment {name!r}; there are {', '.join(plans)}, {MULTITASK}"
        )
    return [plans[name]], run


def resize(
    config: dict,
    *,
    model: dict,
    batch_size: int,
    step_share: float,
    final: int,
    min_steps: int = 1,
) -> dict:
    """The same experiment with fewer of everything; lengths and chains are the plans'.

    Args:
      model: changes of every model.
      step_share: of the steps of each run, which has `min_steps` all the same.
      final: test problems a length.
    """
    runs = {}
    for name, run in config["runs"].items():
        less = {
            "model": model,
            "data": {"batch_size": batch_size, "num_workers": 0},
            "evaluation": {"final": final},
            "num_steps": max(min_steps, round(run["num_steps"] * step_share)),
        }
        runs[name] = merge(run, less)
    return config | {"runs": runs}


def merge(values: dict, changes: Mapping[str, Any]) -> dict:
    """`values` with `changes` in it, nested dicts field by field."""
    merged = dict(values)
    for key, change in changes.items():
        nested = isinstance(change, Mapping) and isinstance(values.get(key), dict)
        merged[key] = merge(values[key], change) if nested else change
    return merged


def _split(lengths: list[int], parts: int) -> list[list[int]]:
    size = -(-len(lengths) // parts)
    return [lengths[i : i + size] for i in range(0, len(lengths), size)]
