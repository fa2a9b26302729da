r"""HumanEval as the REST paper runs it: 164 prompts, plain against drafts.

    python -m experiments.humaneval --run=CodeLlama-7b-Instruct-hf --datastore=STORE \
        --data=HumanEval.jsonl.gz --num_draft=64 --workdir=OUT [--nucleus] [--execute]

At most 512 new tokens, greedy or at temperature 0.8 and top-p 0.95. When
interrupted, the same command resumes. Completions, M and ms a token of every prompt are
in OUT/records.jsonl. With --execute every completion is also run against the problem's
tests, in a sandbox (`relay_jax/rest/sandbox.py`), for pass@1: OUT/executed.jsonl. Where a
completion ends is in `relay_jax/rest/completion.py`.
"""

from collections.abc import Sequence
from typing import Any

from absl import flags, logging
from etils import epath
from tqdm import tqdm

from experiments import command, qa_protocol
from experiments.qa_protocol import Protocol, Row
from relay_jax import files
from relay_jax.config import SamplingConfig
from relay_jax.data.corpora import explain_missing, read_json_objects
from relay_jax.rest import sandbox
from relay_jax.rest.completion import Completion, cut_completion
from relay_jax.rest.qa_benchmark import Question

PROTOCOL = Protocol(
    max_new_tokens=512,
    nucleus=SamplingConfig(temperature=0.8, top_p=0.95),
    template="plain",
    rows=(
        Row("CodeLlama 7B", "greedy", 27.89, 11.82, 2.65),
        Row("CodeLlama 13B", "greedy", 44.32, 19.53),
        Row("CodeLlama 7B", "nucleus", 27.99, 13.18, 2.57),
        Row("CodeLlama 13B", "nucleus", 44.46, 20.47),
    ),
    prefers_model_template=False,  # prompts are continued, not answered
)
FIELDS = ("task_id", "prompt", "test", "entry_point")
_EXECUTE = flags.DEFINE_bool(
    "execute", False, "Run the completions in a sandbox, for pass@1."
)


def main() -> None:
    problems = read_problems(qa_protocol.read_data())
    if _EXECUTE.value:
        sandbox.check()
    questions = [Question(key, (it["prompt"],)) for key, it in problems.items()]
    lines = qa_protocol.run(PROTOCOL, questions)
    if not _EXECUTE.value:
        return
    results = []
    for line in tqdm(lines, unit="program"):
        for answer in line["turns"][0]:
            problem = problems[line["question"]]
            completion = cut_completion(problem["prompt"], answer["text"])
            results.append(
                {
                    "question": line["question"],
                    "drafter": answer["drafter"],
                    "result": sandbox.run(program(problem, completion)),
                    "cut_characters": completion.num_cut,
                    "finish_reason": answer.get("finish_reason"),
                }
            )
    path = epath.Path(flags.FLAGS.workdir)
    files.write_lines(path / "executed.jsonl", results)
    summary = files.read_json(path / "summary.json")
    files.write_json(path / "summary.json", summary | {"executed": summarize(results)})
    for line in summarize(results):
        passed, count = line["passed"], line["completions"]
        print(
            f"pass@1, {line['drafter']}: {passed / count:.1%} of {count}; cut after the "
            f"function: {line['cut']} ({line['cut_characters']:,} characters), cut at the "
            f"maximum number of tokens: {line['unfinished']}"
        )


def summarize(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Counts over the completions of each drafter."""
    lines = []
    for drafter in dict.fromkeys(line["drafter"] for line in results):
        chosen = [line for line in results if line["drafter"] == drafter]
        lines.append(
            {
                "drafter": drafter,
                "completions": len(chosen),
                "passed": sum(line["result"] == "passed" for line in chosen),
                "cut": sum(line["cut_characters"] > 0 for line in chosen),
                "cut_characters": sum(line["cut_characters"] for line in chosen),
                "unfinished": sum(line["finish_reason"] == "length" for line in chosen),
            }
        )
    return lines


def read_problems(file: epath.Path) -> dict[str, dict[str, Any]]:
    """The problems by their names, from a JSON-lines file that may be gzipped.

    Raises:
      ValueError: a line is not a problem of HumanEval.
    """
    problems = {}
    for number, problem in read_json_objects(file):
        missing = [key for key in FIELDS if not isinstance(problem.get(key), str)]
        if missing:
            raise ValueError(
                f"{file}, line {number} is no problem of HumanEval: it has no text under "
                f"{missing[0]!r}; {explain_missing(problem, missing[0])}"
            )
        if problem["task_id"] in problems:
            logging.warning("%s, line %d replaces the same task_id", file, number)
        problems[problem["task_id"]] = problem
    return problems


def program(problem: dict[str, Any], completion: Completion) -> str:
    """The program that tests a completion, which is cut where the function ends."""
    check = f"check({problem['entry_point']})"
    return f"{problem['prompt']}{completion.text}\n\n{problem['test']}\n{check}"


if __name__ == "__main__":
    command.run(main)
