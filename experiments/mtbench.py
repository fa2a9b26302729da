"""MT-Bench as the REST paper runs it: 80 questions of two turns, plain against drafts.

    python -m experiments.mtbench --run=vicuna-7b-v1.5 --datastore=STORE \
        --data=mt_bench_questions.jsonl --num_draft=64 --workdir=OUT [--nucleus]

At most 1,024 new tokens a turn, greedy or at temperature 0.7 and top-p 0.8. Interrupted,
the same command goes on. Only speed is measured; answers are in OUT/records.jsonl.
"""

from experiments import command, paper_table
from experiments.paper_table import Protocol, Row
from relay_jax import records
from relay_jax.config import SamplingConfig
from relay_jax.evaluation.trial import Question

PROTOCOL = Protocol(
    max_new_tokens=1024,
    nucleus=SamplingConfig(temperature=0.7, top_p=0.8),
    template="vicuna",
    rows=(
        Row("Vicuna 7B", "greedy", 25.48, 15.12),
        Row("Vicuna 13B", "greedy", 44.30, 25.08),
        Row("Vicuna 7B", "nucleus", 25.93, 16.02),
        Row("Vicuna 13B", "nucleus", 44.32, 25.92),
    ),
)


def main() -> None:
    file = paper_table.read_data()
    questions = []
    for number, line in enumerate(records.read_lines(file), 1):
        if not {"question_id", "turns", "category"} <= set(line):
            raise ValueError(f"{file}, line {number} is no question of MT-Bench")
        key, turns = str(line["question_id"]), tuple(line["turns"])
        questions.append(Question(key, turns, line["category"]))
    paper_table.run(PROTOCOL, questions)


if __name__ == "__main__":
    command.run(main)
