"""The config of penalties and bans on logits: transformers' names and meanings.

They change the logits of the next token by the text before it, in greedy and in sampled
decoding, before temperature, top-k, top-p and min-p. `decoding.logits_rules` applies them.
"""

import dataclasses
from typing import Any

PENALTIES = 1e-6, 1e6  # the range of `repetition_penalty`; beyond it float32 overflows
MAX_SIZE = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class LogitsRules:
    """Penalties and bans on the next token; by default there are none."""

    # Logits of tokens that the text contains are divided by it if they are positive,
    # else multiplied (Keskar et al. 2019, CTRL); 1: unchanged.
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0  # no n-gram of this size occurs twice; 0: any may
    min_new_tokens: int = 0  # the number of new tokens before a text may end
    suppress_tokens: tuple[int, ...] = ()  # token ids that are never generated

    def __post_init__(self):
        check_range("repetition_penalty", self.repetition_penalty, *PENALTIES)
        check_range("no_repeat_ngram_size", self.no_repeat_ngram_size, 0, MAX_SIZE)
        check_range("min_new_tokens", self.min_new_tokens, 0, MAX_SIZE)
        check_range(
            "suppress_tokens", min(self.suppress_tokens, default=0), 0, MAX_SIZE
        )


def check_range(name: str, value: Any, low: Any, high: Any) -> None:
    """Checks a setting. Raises ValueError if it is not between both ends."""
    if not low <= value <= high:
        raise ValueError(f"{name} must be {low:g} to {high:g}, got {value!r}")


NO_RULES = LogitsRules()


def override(rules: LogitsRules, **changes: Any) -> LogitsRules:
    """The rules with changes; those that are None change nothing.

    Raises:
      ValueError: a value is out of range.
    """
    changed = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(rules, **changed)
