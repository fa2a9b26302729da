"""Chat templates: a conversation as the prompt of a chat model.

The templates are those of FastChat. A conversation consists of questions and of answers to
all but the last one. Special tokens (`</s>`) are spelled out; the tokenizer encodes them.
"""

import itertools
from collections.abc import Sequence

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


def plain(questions: Sequence[str], answers: Sequence[str]) -> str:
    """Questions and answers joined without a template, for base models."""
    return "".join(_in_turn(questions, answers))


def vicuna(questions: Sequence[str], answers: Sequence[str]) -> str:
    """The template of Vicuna v1.1, v1.3 and v1.5.

    SYSTEM USER: question ASSISTANT: answer</s>USER: question ASSISTANT:
    """
    turns = _in_turn(
        [f"USER: {question} ASSISTANT:" for question in questions],
        [f" {answer.strip()}</s>" for answer in answers],
    )
    return f"{VICUNA_SYSTEM} {''.join(turns)}"


def llama2(questions: Sequence[str], answers: Sequence[str]) -> str:
    """The template of Llama-2-chat and CodeLlama-Instruct, without a system message.

    [INST] question [/INST] answer </s><s>[INST] question [/INST]
    """
    turns = _in_turn(
        [f"[INST] {question} [/INST]" for question in questions],
        [f" {answer.strip()} </s><s>" for answer in answers],
    )
    return "".join(turns)


TEMPLATES = {"plain": plain, "vicuna": vicuna, "llama2": llama2}


def _in_turn(questions: Sequence[str], answers: Sequence[str]) -> list[str]:
    """Questions and answers in alternation; the last question has no answer yet."""
    if len(answers) != len(questions) - 1:
        raise ValueError(
            f"{len(questions)} questions need {len(questions) - 1} answers, as the last "
            f"question is open; got {len(answers)}"
        )
    pairs = itertools.zip_longest(questions, answers, fillvalue="")
    return [part for pair in pairs for part in pair]
