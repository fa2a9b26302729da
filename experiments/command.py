"""What every script does around its one library call."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence

from absl import app, logging
from ml_collections import ConfigDict


def run(main: Callable[[], None]) -> None:
    """Runs a script: a bad input ends in one line on stderr instead of a traceback."""

    def guarded(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        if len(argv) > 1:
            sys.exit(f"error: unexpected arguments {' '.join(argv[1:])}")
        try:
            main()
        except (ValueError, FloatingPointError) as error:
            sys.exit(f"error: {error}")

    app.run(guarded)


def plain(config: ConfigDict) -> dict:
    """The nested dict of a config flag."""
    return config.to_dict()


def whole_numbers(name: str, text: str, count: int = 0) -> tuple[int, ...]:
    """`"1,8"` -> (1, 8). Raises ValueError where a flag holds something else."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts) or (
        count and len(parts) != count
    ):
        wanted = f"{count} whole numbers" if count else "whole numbers"
        raise ValueError(f"--{name} must be {wanted} with commas, got {text!r}")
    return tuple(int(part) for part in parts)


def describe() -> dict[str, str]:
    """What a recorded figure must be told with: command, commit, machine, versions."""
    root = pathlib.Path(__file__).parents[1]
    git = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        commit = "unknown"  # not a checkout
    cpu = [
        line.split(":")[1].strip()
        for line in _lines("/proc/cpuinfo")
        if line.startswith("model name")
    ]
    return {
        "command": " ".join(["python", "-m", _module(), *sys.argv[1:]]),
        "commit": commit.strip(),
        "hardware": f"{os.cpu_count()} x {cpu[0] if cpu else platform.machine()}",
        "python": platform.python_version(),
        "jax": importlib.metadata.version("jax"),
        "date": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
    }


def _module() -> str:
    """The script that runs, as `python -m` names it, wherever the checkout lies."""
    return f"experiments.{pathlib.Path(sys.argv[0]).stem}"


def _lines(file: str) -> list[str]:
    path = pathlib.Path(file)
    return path.read_text().splitlines() if path.exists() else []
