"""How many solved problems a CPU-second each task makes, at the paper's lengths.

    python -m experiments.benchmarks.tasks --records=FILE.jsonl

What a training run draws on the fly: problem, all rounds, answer and the train/test
split. The best of a few repeats counts: machines are noisy.
"""

import time

import numpy as np
from absl import flags

from experiments import command
from experiments.configs import paper
from relay_jax import files
from relay_jax.data.sources import SyntheticSource
from relay_jax.tasks import make_task

_RECORDS = flags.DEFINE_string("records", "", "A file that lines are appended to.")
_COUNT = flags.DEFINE_integer("count", 20_480, "Examples a repeat.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "The best counts.", lower_bound=1)


def main() -> None:
    for name, plan in paper.PLANS.items():
        speed = examples_per_second(plan, _COUNT.value, _REPEATS.value)
        print(
            f"{name}, lengths {plan.train_lengths}: {speed:,.0f} examples a CPU-second"
        )
        if _RECORDS.value:
            line = {"task": name, "lengths": plan.train_lengths, "count": _COUNT.value}
            line |= {"examples_per_cpu_second": round(speed)}
            files.append_lines(_RECORDS.value, [command.describe() | line])


def examples_per_second(plan, count: int, repeats: int) -> float:
    task, seconds = make_task(plan.task, plan.options), []
    for repeat in range(repeats):
        source = SyntheticSource(
            task, plan.train_lengths, seed=repeat
        )  # another one: no cache helps
        started = time.process_time()
        source.take(np.arange(count))
        seconds.append(time.process_time() - started)
    return count / min(seconds)


if __name__ == "__main__":
    command.run(main)
