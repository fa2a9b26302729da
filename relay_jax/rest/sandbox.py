"""Runs model-generated programs without network or writing, with limited resources.

Output is limited too; printing more is an error of the program.

The program runs in its own Linux namespaces (users, network, processes, mounts), created
by `unshare` of util-linux. All file systems are read-only, and its child processes end
with it. On a machine that does not allow this no program is run. The sandbox prevents
accidents; it does not withstand an attack on the kernel.
"""

import secrets
import subprocess
import sys
import tempfile
from typing import BinaryIO

from relay_jax.text_files import clean_text, split_lines

NAMESPACES = (
    *("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid"),
    *("--fork", "--kill-child"),
)
MAX_SECONDS = 10.0
MAX_MEMORY = 1 << 30  # bytes
MAX_OUTPUT = 1 << 20  # bytes of standard output, and of standard error
MAX_PROCESSES = 16
MAX_REASON = 200  # characters

# Runs before the program: makes all mounts read-only with the system call mount_setattr
# (442: AT_FDCWD, "/", AT_RECURSIVE, attr_set = MOUNT_ATTR_RDONLY).
GUARD = """
import ctypes, resource, sys
memory, seconds, output, processes = map(int, sys.argv[1:])
read_only = (ctypes.c_uint64 * 4)(1, 0, 0, 0)
system = ctypes.CDLL(None, use_errno=True)
if system.syscall(442, -100, b"/", 0x8000, ctypes.byref(read_only), 32):
    sys.exit("mounts stay writable")
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (output, output))
# Memory is limited per process, so the number of processes is too. Linux does not apply
# this limit to the machine's root user.
resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
exec(compile(sys.stdin.read(), "program", "exec"), {"__name__": "__main__"})
"""


def check() -> None:
    """Checks that this machine can run programs in the sandbox.

    Raises:
      ValueError: it cannot.
    """
    result = run("pass")
    if result != "passed":
        raise ValueError(
            "this machine does not allow `unshare` to isolate a program, so programs "
            f"written by a model are not run here ({result})"
        )


def run(program: str, seconds: float = MAX_SECONDS, memory: int = MAX_MEMORY) -> str:
    """Runs a program and returns "passed", or the reason for its failure in one line.

    Args:
      seconds: the time limit.
      memory: the limit of its address space in bytes.
    """
    end_mark = secrets.token_hex(16)  # printed last: an early exit does not pass
    command = [*NAMESPACES, sys.executable, "-I", "-c", GUARD]
    limits = map(str, (memory, int(seconds) + 1, MAX_OUTPUT, MAX_PROCESSES))
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            finished = subprocess.run(
                [*command, *limits],
                input=f"{clean_text(program)}\nprint('\\n' + {end_mark!r})\n".encode(),
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
        if _read(output).rstrip().endswith(end_mark):
            return "passed"
        lines = split_lines(_read(errors).strip())
        return (lines or [f"exit code {finished.returncode}"])[-1][:MAX_REASON]


def _read(file: BinaryIO) -> str:
    """The output of a program."""
    file.seek(0)
    return file.read(MAX_OUTPUT).decode(errors="replace")
