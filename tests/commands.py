"""Reads commands of `experiments` from stdin and parses them as the scripts do.

    echo '[["experiments.train", "--config=..."]]' | python -m tests.commands

All scripts are imported in this one process, each with the flags of a fresh one, since
importing JAX takes most of a script's start. Prints a list: for each command an empty
string, or why it is refused. Nothing is run.
"""

import importlib
import json
import sys

from absl import flags


def load(module: str) -> None:
    """Imports a script as if it were the only one."""
    for name in [name for name in sys.modules if name.startswith("experiments")]:
        if not name.startswith("experiments.configs"):
            del sys.modules[name]
    importlib.import_module(module)


def parse(module: str, *arguments: str) -> str:
    """Why the flags of a script refuse its arguments; an empty string if they do not."""
    before = set(flags.FLAGS)
    try:
        load(module)
        sys.argv = [module, *arguments]  # config flags look here for their overrides
        rest = flags.FLAGS(sys.argv)
    except ModuleNotFoundError as error:
        return f"{error}"
    except (flags.Error, ValueError, AttributeError, LookupError, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
    return f"arguments without a flag: {rest[1:]}" if rest[1:] else ""


if __name__ == "__main__":
    print(json.dumps([parse(*command) for command in json.load(sys.stdin)]))
