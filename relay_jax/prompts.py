"""Prompts of the Python API: texts, or token ids."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from relay_jax.tokenizers import Tokenizer


def encode_prompts(prompts: Any, tokenizer: Tokenizer) -> list[list[int]]:
    """The token ids of each prompt.

    Args:
      prompts: one text or several, or the token ids of one text or several.

    Raises:
      ValueError: they are something else, or there is none.
    """
    if isinstance(prompts, str) or _is_ids(prompts):
        prompts = [prompts]
    if not isinstance(prompts, (Sequence, np.ndarray)) or not len(prompts):
        raise ValueError(
            "prompts must be a text, token ids, or a list of them that is not empty, "
            f"got {prompts!r}"
        )
    encoded = []
    for prompt in prompts:
        if isinstance(prompt, str):
            encoded.append(list(tokenizer.encode(prompt)))
        elif _is_ids(prompt):
            encoded.append([int(token) for token in prompt])
        else:
            raise ValueError(
                f"a prompt must be a text or a list of token ids, got {prompt!r}"
            )
    return encoded


def _is_ids(prompt: Any) -> bool:
    """Whether a prompt is a sequence of integers that is not empty."""
    if isinstance(prompt, str) or not isinstance(prompt, (Sequence, np.ndarray)):
        return False
    return len(prompt) > 0 and all(
        isinstance(token, (int, np.integer)) and not isinstance(token, bool)
        for token in prompt
    )
