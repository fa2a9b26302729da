"""Is one drafter better than another? A paired bootstrap over the texts that both drafted.

    text     tokens   steps of `rest`   steps of `mixed`
    0           128                40                 33
    1           128                25                 26      M = tokens / steps, of all
    ...

Texts are drawn with replacement, the same ones for both; between two quantiles of the
differences lies the interval. Where it excludes 0, the difference is no accident of the
texts that were decoded.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from relay_jax.base import Float, Host, Int

DRAWS = 10_000
LEVEL = 0.95


def gain(
    one: Int[Host, "2 k"], other: Int[Host, "2 k"], seed: int = 0
) -> Float[Host, "3"]:
    """M of one drafter less M of the other, and the bounds of its `LEVEL` interval.

    Args:
      one: the tokens, and the steps, of each text; `other` of the same texts.
    """
    count = one.shape[1]
    drawn = np.random.default_rng(seed).integers(count, size=(DRAWS, count))

    def rate(told, at):
        tokens, steps = told[:, at].sum(axis=-1)
        return tokens / steps

    def differ(at):
        return rate(one, at) - rate(other, at)

    tail = (1 - LEVEL) / 2
    bounds = np.quantile(differ(drawn), [tail, 1 - tail])
    return np.array([differ(np.arange(count)), *bounds])


def add_gains(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """`speed.compare`'s lines; `above` tells each drafter's gain over each before it,
    plain decoding apart."""
    told, before = [], {}
    for line in lines:
        own = np.array([line["tokens_of_texts"], line["steps_of_texts"]])
        above = {
            name: gain(own, other).round(3).tolist() for name, other in before.items()
        }
        if line["num_draft"]:
            before[f"{line['drafter']} {line['num_draft']}"] = own
        told.append(line | {"gain_over": above if line["num_draft"] else {}})
    return told


def make_gain_table(lines: Sequence[dict[str, Any]]) -> str:
    """A row for each two drafters: by how much M of the one is above the other's."""
    rows = [f"M above another drafter's, and its {LEVEL:.0%} interval over texts:"]
    for line in lines:
        name = f"{line['drafter']} {line['num_draft']}"
        for other, (mean, least, most) in line["gain_over"].items():
            rows.append(f"{name} - {other}: {mean:+.2f} ({least:+.2f}, {most:+.2f})")
    return "\n".join(rows)
