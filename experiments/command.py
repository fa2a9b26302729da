"""What every script does around its one library call."""

import contextlib
import dataclasses
import datetime
import importlib.metadata
import io
import os
import pathlib
import platform
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import jax
from absl import app, flags, logging
from etils import epath
from ml_collections import ConfigDict, config_flags

from experiments import processes
from relay_jax import aliases, config_io, files
from relay_jax import config as configs

SCRIPTS = {  # the script of each kind of config
    configs.TrainConfig: "train",
    configs.LanguageConfig: "train",
    configs.ChainsConfig: "write_chains",
    configs.RelayConfig: "quickstart",
}
HELP = ("--help", "-help", "--helpshort", "-h")
# Of one path or several. The first ones may not be empty.
PATH_FLAGS = ("workdir", "run", "data_dir", "results", "problems")
OTHER_PATH_FLAGS = (
    *("data", "datastore", "files", "fit", "from", "jsonl", "looped", "model"),
    *("prompt_file", "prompts_jsonl", "records", "targets", "template", "token_array"),
    *("tokenizer", "trace", "tree_size_cache"),
)
_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=\[]+)")  # --config.model.dim=8


def run(main: Callable[[], None], is_shared: bool = False) -> None:
    """Runs a script: a bad input ends in one line on stderr instead of a traceback.

    Args:
      is_shared: whether several processes can do the work together.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        if any(argument in HELP for argument in argv[1:]):
            print(make_help())
            sys.exit()
        with one_line_errors():
            check_config(argv)
            rest = flags.FLAGS(argv)
            expand_paths(flags.FLAGS)
            check_paths(flags.FLAGS)
            return rest

    if isinstance(sys.stdout, io.TextIOWrapper):  # it may know few characters
        sys.stdout.reconfigure(errors="backslashreplace")

    def guarded(argv: Sequence[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        if len(argv) > 1:
            sys.exit(f"error: unexpected arguments {' '.join(argv[1:])}")
        with one_line_errors():
            processes.connect(is_shared, _module())
        with processes.exit_at_once_if_failed(), one_line_errors():
            main()

    app.run(guarded, flags_parser=parse)


def make_help() -> str:
    """The docstring of the script that runs, and all flags of it and its parts."""
    values, main = flags.FLAGS, sys.argv[0]
    for module, defined in values.flags_by_module_dict().items():
        if module.startswith("experiments."):
            for flag in defined:
                values.register_key_flag_for_module(main, flag)
    shown = values.main_module_help().strip().partition("\n")[2]
    text = (sys.modules["__main__"].__doc__ or "").strip()
    return f"{text}\n\nFlags:\n{shown}"


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns the errors that a user can cause into `error: ...` and the exit code 1."""
    try:
        yield
    except flags.Error as error:
        message = " ".join(str(error).split())
        sys.exit(f"error: {message} (--help lists the flags)")
    except OSError as error:
        path, reason = error.filename or "a file", error.strerror or error
        sys.exit(
            f"error: {path} cannot be used: {reason}; give a path of an existing disk "
            "that you may read and write, with room on it"
        )
    except (ValueError, FloatingPointError) as error:
        sys.exit(f"error: {error}")
    except ImportError as error:
        if error.name:  # a module of ours, or one that is always installed
            raise
        sys.exit(f"error: {error}")  # fsspec names the package of a cloud's paths
    except jax.errors.JaxRuntimeError as error:
        message = str(error)
        if "RESOURCE_EXHAUSTED" not in message and "Out of memory" not in message:
            raise
        sys.exit(
            f"error: the device has too little memory ({message[:200]}); ask for "
            "less: a smaller batch, fewer tokens, a narrower type"
        )


def make_folder(path: epath.Path) -> None:
    """Makes a directory and checks that it is writable, before any long work."""
    path.mkdir(parents=True, exist_ok=True)
    if not files.is_main_process():
        return
    probe = path / ".writable"
    probe.write_bytes(b"")
    probe.unlink()


def expand_paths(values: flags.FlagValues) -> None:
    """Reads the names in the flags of paths: `~/a` is below the home directory,
    `file:///a` is `/a`, and `a,b`, of a flag of several paths, one name if it exists and
    its parts do not."""
    for name in (*PATH_FLAGS, *OTHER_PATH_FLAGS):
        value = values[name].value if name in values else None
        if isinstance(value, list):
            whole = ",".join(value)
            is_one = len(value) > 1 and not any(map(os.path.exists, value))
            value = [whole] if is_one and os.path.exists(whole) else value
            values[name].value = [_expand(path) for path in value]
        elif isinstance(value, str):
            values[name].value = _expand(value)


def _expand(path: str) -> str:
    if os.path.exists(path):
        return path
    return os.path.expanduser(path.removeprefix("file://"))


def check_paths(values: flags.FlagValues) -> None:
    """Raises ValueError if a flag of paths is set, but empty, or if --records, which is
    written last, could not be written. The directory of --records is created."""
    for name in PATH_FLAGS:
        if name in values and values[name].present:
            value = values[name].value
            paths = value if isinstance(value, list) else [value]
            if not paths or "" in paths:
                raise ValueError(f"--{name} has an empty name in it; give a path")
    if "records" in values and (path := values["records"].value):
        file = epath.Path(path)
        with contextlib.suppress(OSError):  # there may be a file of its name
            file.parent.mkdir(parents=True, exist_ok=True)
        if file.is_dir() or not file.parent.is_dir():
            raise ValueError(
                f"--records={path} cannot be written: it must be a file in a "
                "directory that can be created; give another file"
            )


def check_config(argv: Sequence[str], default: str = "") -> None:
    """Checks --config=FILE[:PART] and every --config.KEY=VALUE, which ml_collections
    would answer with tracebacks.

    Raises:
      ValueError: there is no such file, part or key, or the file has an error.
    """
    selected = default
    for argument, following in zip(argv, [*argv[1:], ""]):
        name, equals, value = argument.partition("=")
        if name in ("-config", "--config"):
            selected = value if equals else following
    if not selected:
        return
    file, colon, part = selected.partition(":")
    if not pathlib.Path(file).is_file():
        path = pathlib.Path(file)
        if new := aliases.CONFIG_FILES.get(path.name):
            new += f"{'/' if ':' in new else ':'}{part}" if part else ""
            raise ValueError(f"--config: {selected} is now {path.parent / new}")
        if colon and pathlib.Path(selected).is_file():
            raise ValueError(
                f"--config: the name {selected!r} has a colon, which separates a file from "
                "its argument; rename it"
            )
        raise ValueError(
            f"--config: there is no file {file!r}; give a Python file with a "
            "get_config(), such as experiments/configs/tiny.py"
        )
    try:
        values = runpy.run_path(file)["get_config"](*([part] if colon else []))
    except ValueError:
        raise
    except Exception as error:  # a config is a program: anything can be wrong with it
        kind = type(error).__name__
        raise ValueError(f"--config={selected} fails with {kind}: {error}") from error
    for override in filter(None, map(_OVERRIDE.match, argv)):
        _check_key(values, override[1].split("."))


def _check_key(values: ConfigDict, keys: list[str]) -> None:
    where = "config"
    for key in keys:
        has_keys = isinstance(values, ConfigDict)
        if not has_keys:
            raise ValueError(f"unknown key {where}.{key}: {where} is {values!r}")
        if key not in values:
            if (new := aliases.CONFIG_KEYS.get(key)) in values:
                raise ValueError(f"config key {where}.{key} is now {where}.{new}")
            valid = ", ".join(sorted(values))
            raise ValueError(f"unknown key {where}.{key}; valid keys: {valid}")
        values, where = values[key], f"{where}.{key}"


def build(cls: type, values: dict):
    """The config of a script, from the nested dict of its flag.

    Raises:
      ValueError: it is a config of another script, or invalid (`config_io.build`).
    """

    def fits(kind):
        return set(values) <= {field.name for field in dataclasses.fields(kind)}

    other = [script for kind, script in SCRIPTS.items() if fits(kind)]
    if other and not fits(cls):
        file = config_flags.get_config_filename(flags.FLAGS["config"])
        message = f"--config={file} is for python -m experiments.{other[0]}"
        if cls is configs.TrainConfig and "runs" in values:
            mark = "/" if ":" in file else ":TASK/"  # quickstart.py:lis/ar
            runs = ", ".join(values["runs"])
            message += (
                f"; for one of its runs give --config={file}{mark}RUN, RUN: {runs}"
            )
        raise ValueError(message)
    return config_io.build(cls, values)


def whole_numbers(name: str, text: str, count: int = 0) -> tuple[int, ...]:
    """`"1,8"` -> (1, 8). Raises ValueError if the flag has any other value."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts) or (
        count and len(parts) != count
    ):
        wanted = f"{count} whole numbers" if count else "whole numbers"
        raise ValueError(f"--{name} must be {wanted} with commas, got {text!r}")
    return tuple(int(part) for part in parts)


def describe() -> dict[str, str]:
    """The provenance to record with every figure: command, commit, machine, versions.

    Call this before any long work: the checkout may change meanwhile.
    """
    cpu = [
        line.split(":")[1].strip()
        for line in _lines("/proc/cpuinfo")
        if line.startswith("model name")
    ]
    return {
        "command": " ".join(["python", "-m", _module(), *sys.argv[1:]]),
        "commit": os.environ.get("RELAY_JAX_COMMIT") or _commit(),
        "hardware": f"{os.cpu_count()} x {cpu[0] if cpu else platform.machine()}",
        "python": platform.python_version(),
        "jax": importlib.metadata.version("jax"),
        "date": datetime.datetime.now(datetime.UTC).isoformat("T", "seconds"),
    }


def _commit() -> str:
    """The commit of the checkout, or "unknown"; $RELAY_JAX_COMMIT replaces it where the
    code is a copy without a repository."""
    root = pathlib.Path(__file__).parents[1]
    git = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(git, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"  # not a checkout
    return found.strip()


def _module() -> str:
    """The running script as a module for `python -m`, wherever the checkout is."""
    parts = pathlib.Path(sys.argv[0]).with_suffix("").parts
    start = -2 if parts[-2:-1] == ("benchmarks",) else -1
    return ".".join(["experiments", *parts[start:]])


def _lines(file: str) -> list[str]:
    path = pathlib.Path(file)
    return path.read_text().splitlines() if path.exists() else []
