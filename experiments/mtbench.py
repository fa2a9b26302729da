r"""MT-Bench as the REST paper runs it: 80 questions of two turns, plain against drafts.

    python -m experiments.mtbench --run=vicuna-7b-v1.5 --datastore=STORE \
        --data=mt_bench_questions.jsonl --num_draft=64 --workdir=OUT [--nucleus]

At most 1,024 new tokens a turn, greedy or at temperature 0.7 and top-p 0.8. When
interrupted, the same command resumes. Only speed is measured; answers are in
OUT/records.jsonl. Questions have the format of the model's own chat template, or Vicuna's
(--template=vicuna) if it has none.
"""

from absl import logging
from etils import epath

from experiments import command, qa_protocol
from experiments.qa_protocol import Protocol, Row
from relay_jax.config import SamplingConfig
from relay_jax.data.corpora import read_json_objects
from relay_jax.rest.qa_benchmark import Question

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
    qa_protocol.run(PROTOCOL, read_questions(qa_protocol.read_data()))


def read_questions(file: epath.Path) -> list[Question]:
    """The questions of a JSON-lines file that may be gzipped.

    Raises:
      ValueError: a line is not a question of MT-Bench.
    """
    questions = []
    for number, line in read_json_objects(file):
        key, turns, category = map(line.get, ("question_id", "turns", "category"))
        is_list = isinstance(turns, list) and turns
        is_labeled = isinstance(key, int | str) and isinstance(category, str)
        if not is_labeled or not is_list or not all(isinstance(t, str) for t in turns):
            raise ValueError(
                f"{file}, line {number} is no question of MT-Bench: it needs a "
                "question_id, a category, and a list of texts under 'turns'"
            )
        if any(question.key == str(key) for question in questions):
            logging.warning(
                "%s, line %d is left out: its id occurs twice", file, number
            )
            continue
        questions.append(Question(str(key), tuple(turns), category))
    return questions


if __name__ == "__main__":
    command.run(main)
