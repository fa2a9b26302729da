"""Several processes that do the work of one script together."""

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
from absl import flags
from jax.experimental import multihost_utils

from relay_jax import files

COORDINATOR = "RELAY_JAX_COORDINATOR"  # the environment variable for --coordinator
_COORDINATOR = flags.DEFINE_string(
    "coordinator",
    None,
    "If several processes do the work together: HOST:PORT of the first one, or auto on "
    "a cluster that JAX detects (Cloud TPU, GKE, Slurm, MPI). Default: "
    f"${COORDINATOR}.",
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Number of these processes.", 1
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Index of this process, from 0.", 0
)
_ADDRESS = re.compile(r".+:[0-9]{1,5}")


def connect(is_shared: bool, script: str) -> None:
    """Connects to the other processes, if there are any; only the first one prints.

    Args:
      is_shared: whether several processes can do the work of the script together.
      script: its module, for error messages.

    Raises:
      ValueError: the flags do not identify the processes, or the script runs as one
        process only.
    """
    values = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    if not is_shared:
        if values != (None, None, None):
            raise ValueError(
                f"{script} is the work of one process: start it once, without "
                "--coordinator, --num_processes and --process_id"
            )
        if (count := _started_here()) > 1:
            raise ValueError(
                f"{script} is the work of one process, and {count} were started: ask "
                "for one task (--gpus=1 --nodes=1 of launch/slurm.sh, one worker)"
            )
        return
    address, count, index = values
    address = os.environ.get(COORDINATOR, "") if address is None else address
    if address == "auto":
        try:
            jax.distributed.initialize(None, count, index)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"--coordinator=auto finds no cluster here ({error}); give "
                "--coordinator=HOST:PORT, --num_processes and --process_id, or none"
            ) from None
    elif address:
        if (
            not _ADDRESS.fullmatch(address)
            or count is None
            or index is None
            or index >= count
        ):
            raise ValueError(
                "--coordinator=HOST:PORT needs --num_processes and a --process_id below "
                f"it, got {address!r}, {count} and {index}; or give --coordinator=auto"
            )
        jax.distributed.initialize(address, count, index)
    elif (count, index) != (None, None):
        raise ValueError("--num_processes and --process_id need --coordinator")
    if not files.is_main_process():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _started_here() -> int:
    """The number of processes that a launcher has started, from the environment."""
    if os.environ.get(COORDINATOR) != "auto":
        return 1
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").count(",") + 1
    return max(hosts, int(os.environ.get("SLURM_NTASKS", "1")))


@contextlib.contextmanager
def exit_at_once_if_failed() -> Iterator[None]:
    """If one of several processes fails, it exits at once. JAX would otherwise wait at
    the exit for the others, which wait for this one and would not notice it."""
    try:
        yield
    except BaseException as error:
        refusal = error.code if isinstance(error, SystemExit) else None
        all_agree = isinstance(refusal, int)  # they stop together
        if not jax.distributed.is_initialized() or all_agree:
            raise
        print(refusal or traceback.format_exc(), file=sys.stderr, flush=True)
        os._exit(1)


def first_alone(work: Callable[[], Any]) -> Any:
    """The result of `work`, which the first process does before all others: they find
    its files."""
    result = work() if files.is_main_process() else None
    if jax.distributed.is_initialized():
        multihost_utils.sync_global_devices("first_alone")
    return result if files.is_main_process() else work()
