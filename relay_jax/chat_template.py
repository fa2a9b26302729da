"""Conversations as one text: what a chat model is given to go on with.

The templates are FastChat's. A conversation is its questions and the answers to all of
them but the last; special pieces (`</s>`) are written out, the tokenizer reads them.
"""

import itertools
from collections.abc import Sequence

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def plain(questions: Sequence[str], answers: Sequence[str]) -> str:
    """Question and answer one after another: for models that only complete a text."""
    return "".join(_in_turn(questions, answers))


def vicuna(questions: Sequence[str], answers: Sequence[str]) -> str:
    """Vicuna v1.1, also of v1.3 and v1.5.

    SYSTEM USER: question ASSISTANT: answer</s>USER: question ASSISTANT:
    """
    turns = _in_turn(
        [f"USER: {question} ASSISTANT:" for question in questions],
        [f" {answer.strip()}</s>" for answer in answers],
    )
    return f"{VICUNA_SYSTEM} {''.join(turns)}"


def llama2(questions: Sequence[str], answers: Sequence[str]) -> str:
    """Llama-2-chat and CodeLlama-Instruct, without a system message.

    [INST] question [/INST] answer </s><s>[INST] question [/INST]
    """
    turns = _in_turn(
        [f"[INST] {question} [/INST]" for question in questions],
        [f" {answer.strip()} </s><s>" for answer in answers],
    )
    return "".join(turns)


TEMPLATES = {"plain": plain, "vicuna": vicuna, "llama2": llama2}


def _in_turn(questions: Sequence[str], answers: Sequence[str]) -> list[str]:
    if len(answers) != len(questions) - 1:
        raise ValueError(
            f"{len(questions)} questions need {len(questions) - 1} answers, the last "
            f"one is open; got {len(answers)}"
        )
    pairs = itertools.zip_longest(questions, answers, fillvalue="")
    return [part for pair in pairs for part in pair]
