"""Runs a program that a model wrote: no network, no writing, little time and memory.
What it prints is kept up to a limit; to print more is an error of the program.

The program gets namespaces of its own (users, network, processes, mounts) from Linux,
through `unshare` of util-linux; every file system is read-only to it, and whatever it
starts ends with it. Where a machine does not allow that, nothing is run. This keeps off
accidents, not an attack on the kernel.
"""

import secrets
import subprocess
import sys
import tempfile
from typing import BinaryIO

NAMESPACES = (
    *("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid"),
    *("--fork", "--kill-child"),
)
SECONDS, MEMORY = 10.0, 1 << 30
PRINTED = 1 << 20  # bytes of output and of errors, each
PROCESSES = 16
LONGEST = 200  # characters of a reason

# Runs before the program: makes all mounts read-only by the system call mount_setattr
# (442: AT_FDCWD, "/", AT_RECURSIVE, attr_set = MOUNT_ATTR_RDONLY).
GUARD = """
import ctypes, resource, sys
memory, seconds, printed, processes = map(int, sys.argv[1:])
read_only = (ctypes.c_uint64 * 4)(1, 0, 0, 0)
system = ctypes.CDLL(None, use_errno=True)
if system.syscall(442, -100, b"/", 0x8000, ctypes.byref(read_only), 32):
    sys.exit("mounts stay writable")
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (printed, printed))
# Memory is limited for each process, so their number is too. Linux does not apply this
# to the machine's own root; elsewhere it counts the processes of this namespace's user.
resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
exec(compile(sys.stdin.read(), "program", "exec"), {"__name__": "__main__"})
"""


def check() -> None:
    """Raises ValueError where programs cannot be shut in."""
    told = run("pass")
    if told != "passed":
        raise ValueError(
            "this machine does not let `unshare` shut a program in, so none that a "
            f"model wrote is run here ({told})"
        )


def run(program: str, seconds: float = SECONDS, memory: int = MEMORY) -> str:
    """`"passed"` if a program runs to its end, else the reason in a line.

    Args:
      seconds: after which it is stopped.
      memory: of its address space, in bytes.
    """
    sign = secrets.token_hex(16)  # printed at the very end: leaving early is no pass
    command = [*NAMESPACES, sys.executable, "-I", "-c", GUARD]
    limits = map(str, (memory, int(seconds) + 1, PRINTED, PROCESSES))
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            done = subprocess.run(
                [*command, *limits],
                input=f"{program}\nprint('\\n' + {sign!r})\n".encode(),
                stdout=output,
                stderr=errors,
                timeout=seconds,
                cwd="/",
                env={},
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"stopped after {seconds:g} s"
        except OSError as error:
            return str(error)
        if _read(output).rstrip().endswith(sign):
            return "passed"
        told = _read(errors).strip().splitlines()
        return (told or [f"exit code {done.returncode}"])[-1][:LONGEST]


def _read(file: BinaryIO) -> str:
    """What a program wrote to a file of its parent."""
    file.seek(0)
    return file.read(PRINTED).decode(errors="replace")
