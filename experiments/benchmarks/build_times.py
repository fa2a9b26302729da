"""The comparison of datastore builds on one core and on all."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def compare(lines: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """The record of alternating builds, each on one core and then on all.

    Raises:
      ValueError: their files differ.
    """
    one, every = zip(*lines)
    if any(line["files"] != one[0]["files"] for line in (*one, *every)):
        raise ValueError("builds of the same texts have different files")
    record = {name: every[0][name] for name in ("cores", "tokens", "documents")}
    for name in ("tokenize_seconds", "seconds"):
        alone, together = (min(line[name] for line in side) for side in (one, every))
        record[f"{name}_one_core"] = round(alone, 2)
        record[name] = round(together, 2)
        record[name.replace("seconds", "speed_up")] = round(alone / together, 2)
    record["peak_mb"] = round(float(np.max([line["peak_mb"] for line in every])))
    return record
