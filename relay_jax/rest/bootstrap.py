"""Comparison of drafters: a paired bootstrap over the decoded texts.

    text     tokens   steps with `rest`   steps with `mixed`
    0           128                  40                   33
    1           128                  25                   26      M = tokens / steps
    ...

Texts are resampled with replacement, the same texts for both drafters. Quantiles of the
differences in M bound the confidence interval. If it excludes 0, the difference is
significant: it does not depend on which texts were decoded.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from relay_jax.base import Float, Host, Int

NUM_RESAMPLES = 10_000
LEVEL = 0.95


def bootstrap_gain(
    one: Int[Host, "2 k"], other: Int[Host, "2 k"], seed: int = 0
) -> Float[Host, "3"]:
    """M of one drafter minus M of the other, and the bounds of its `LEVEL` interval.

    Args:
      one: the number of tokens and the number of steps of each text.
      other: the same numbers for the other drafter, on the same texts.
    """
    count = one.shape[1]
    rng = np.random.default_rng(seed)
    resamples = rng.integers(count, size=(NUM_RESAMPLES, count))

    def tokens_per_step(counts, texts):
        tokens, steps = counts[:, texts].sum(axis=-1)
        return tokens / steps

    def difference(texts):
        return tokens_per_step(one, texts) - tokens_per_step(other, texts)

    tail = (1 - LEVEL) / 2
    bounds = np.quantile(difference(resamples), [tail, 1 - tail])
    return np.array([difference(np.arange(count)), *bounds])


def add_gains(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of `benchmark.compare` with each drafter's gain over the ones before it.

    `gain_over` maps such a drafter and its tree size to `bootstrap_gain`. It is empty for
    plain decoding, with which no drafter is compared.
    """
    extended, before = [], {}
    for line in lines:
        counts = np.array([line["tokens_of_texts"], line["steps_of_texts"]])
        gains = {}
        if line["num_draft"]:
            gains = {
                name: bootstrap_gain(counts, other).round(3).tolist()
                for name, other in before.items()
            }
            before[f"{line['drafter']} {line['num_draft']}"] = counts
        extended.append(line | {"gain_over": gains})
    return extended


def make_gain_table(lines: Sequence[dict[str, Any]]) -> str:
    """A table with a row for each pair of drafters: the difference in M."""
    rows = [f"differences in M and their {LEVEL:.0%} intervals over texts:"]
    for line in lines:
        name = f"{line['drafter']} {line['num_draft']}"
        for other, (gain, low, high) in line["gain_over"].items():
            rows.append(f"{name} - {other}: {gain:+.2f} ({low:+.2f}, {high:+.2f})")
    return "\n".join(rows)
