"""Which lengths are trained when, by task and kind of model, found by trials on two cores
(docs/results_relay.md, "What was tried").

A curriculum is a dict of buckets for `DataConfig.buckets`. It replaces the one bucket
that a task has by default (`relay_recipe.original_buckets`). Weights matter relative to
each other; a bucket has no batches before its `start_share` of all steps.
"""

from collections.abc import Iterable

from experiments.configs.relay_recipe import TaskPlan, original_bucket

Buckets = dict[str, dict]
MAX_SHORT = 3  # letters of short strings


def aligned(plan: TaskPlan) -> Buckets:
    """For the looped model that learns its rounds.

    The longest problems are sampled most often: only they have the last rounds, and the
    rounds of shorter problems are much like their first ones. Arithmetic has whole
    chains in three of four steps: they alone teach what the hidden state has to carry.
    """
    last = plan.train_lengths[1]
    if plan.task == "arithmetic":
        whole = original_bucket(plan)
        return {
            plan.task: whole | {"weight": 0.75},
            "first_rounds": whole | {"weight": 0.25, "max_rounds": 1},
        }
    if plan.task == "edit_distance":
        half = max(last // 2, MAX_SHORT + 1)
        usual = buckets(
            plan,
            (1, half, 0.15, 0.08),
            (1, last, 0.3, 0.12),
            (last - 1, last, 0.4, 0.2),
        )
        return {"short_strings": short_strings(plan) | {"weight": 0.15}} | usual
    group = plan.options["group"]
    return buckets(
        plan,
        (1, group, 0.05, 0.0),
        (1, 2 * group, 0.1, 0.02),
        (1, last, 0.25, 0.08),
        (last - group + 1, last, 0.6, 0.12),
    )


def vanilla(plan: TaskPlan) -> Buckets:
    """For the looped model that learns from answers alone.

    The answer of a long problem says little until shorter ones are understood.
    """
    last = plan.train_lengths[1]
    if plan.task == "arithmetic":
        ends = [n for n in (1, 2, 3, 4, 8) if n < last] + [last]
        firsts = [1, *(end + 1 for end in ends)]
        weights = 0.03, 0.12, 0.25, 0.6, 0.8, 0.8
        starts = 0.0, 0.005, 0.08, 0.22, 0.4, 0.6
        return buckets(plan, *zip(firsts, ends, weights, starts))
    if plan.task == "edit_distance":
        ends = [1, 2, 3, *range(4, last, 2), last]
    else:
        ends = [*range(plan.options["group"], last, plan.options["group"]), last]
    parts = []
    for index, end in enumerate(ends):
        first = 1 if index < 2 else ends[index - 2] + 1  # the lengths before it again
        share = (index + 1) / len(ends)
        parts.append((first, end, share**2, 0.5 * index / len(ends)))
    return buckets(plan, *parts)


def ar(plan: TaskPlan) -> Buckets:
    """For the AR model: edit distance starts with short strings, the longest rows come
    last; the other tasks need no curriculum."""
    usual = original_bucket(plan)
    if plan.task != "edit_distance":
        return {plan.task: usual}
    test_rows = usual | {"options": plan.options, "weight": 0.5, "start_share": 0.2}
    return {
        "short_strings": short_strings(plan) | {"weight": 0.15},
        "usual_strings": test_rows,
        plan.task: usual | {"weight": 0.35, "start_share": 0.5},
    }


def short_strings(plan: TaskPlan) -> dict:
    """Strings without which edit distance is not learnt: they show how letters compare."""
    usual = original_bucket(plan)
    return usual | {"options": plan.options, "lengths": (1, MAX_SHORT)}


def buckets(plan: TaskPlan, *parts: tuple[int, int, float, float]) -> Buckets:
    """Problems of the training lengths as several buckets.

    Args:
      parts: first and last length, weight and start share of each. The last part has the
        task's name, the others have their lengths in their names too.
    """
    usual = original_bucket(plan)
    result = {}
    for index, (first, last, weight, start) in enumerate(parts, start=1):
        is_last = index == len(parts)
        name = plan.task if is_last else f"{plan.task}_{first}_to_{last}"
        changes = {"lengths": (first, last), "weight": weight, "start_share": start}
        result[name] = usual | changes
    return result


def together(curricula: Iterable[Buckets]) -> Buckets:
    """Several tasks' buckets; all tasks weigh the same."""
    curricula = list(curricula)
    result = {}
    for parts in curricula:
        total = len(curricula) * sum(bucket["weight"] for bucket in parts.values())
        for name, bucket in parts.items():
            result[name] = bucket | {"weight": bucket["weight"] / total}
    return result
