"""Times the tasks: solved problems per CPU-second at the paper's training lengths.

    python -m experiments.benchmarks.tasks --records=FILE.jsonl

Measures what training samples on the fly: the problem, all rounds, the answer, and the
train/test split. The fastest of several repetitions counts, since machines are noisy.
"""

import time

import numpy as np
from absl import flags

from experiments import command
from experiments.configs import paper
from experiments.configs.relay_recipe import TaskPlan
from relay_jax import files
from relay_jax.data.sources import SyntheticSource
from relay_jax.tasks import make_task

_RECORDS = flags.DEFINE_string("records", "", "A file to append records to.")
_COUNT = flags.DEFINE_integer("count", 20_480, "Examples per repetition.", 1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Repetitions; the fastest counts.", 1)


def main() -> None:
    for name, plan in paper.PLANS.items():
        speed = examples_per_second(plan, _COUNT.value, _REPEATS.value)
        print(f"{name}, lengths {plan.train_lengths}: {speed:,.0f} examples/CPU-second")
        if _RECORDS.value:
            line = {"task": name, "lengths": plan.train_lengths, "count": _COUNT.value}
            line |= {"examples_per_cpu_second": round(speed)}
            files.append_lines(_RECORDS.value, [command.describe() | line])


def examples_per_second(plan: TaskPlan, count: int, repeats: int) -> float:
    """Examples per CPU-second in the fastest repetition."""
    task, seconds = make_task(plan.task, plan.options), []
    for seed in range(repeats):  # another seed, so that nothing is cached
        source = SyntheticSource(task, plan.train_lengths, seed)
        start = time.process_time()
        source.take(np.arange(count))
        seconds.append(time.process_time() - start)
    return count / min(seconds)


if __name__ == "__main__":
    command.run(main)
