"""Runs a program that a model wrote: no network, no writing, little time and memory.

The program gets namespaces of its own (users, network, processes, mounts) from Linux,
through `unshare` of util-linux; every file system is read-only to it, and whatever it
starts ends with it. Where a machine does not allow that, nothing is run. This keeps off
accidents, not an attack on the kernel.
"""

import secrets
import subprocess
import sys

NAMESPACES = (
    *("unshare", "--user", "--map-root-user", "--net", "--mount", "--pid"),
    *("--fork", "--kill-child"),
)
SECONDS, MEMORY = 10.0, 1 << 30

# Runs before the program: makes all mounts read-only by the system call mount_setattr
# (442: AT_FDCWD, "/", AT_RECURSIVE, attr_set = MOUNT_ATTR_RDONLY).
GUARD = """
import ctypes, resource, sys
memory, seconds = int(sys.argv[1]), int(sys.argv[2])
read_only = (ctypes.c_uint64 * 4)(1, 0, 0, 0)
system = ctypes.CDLL(None, use_errno=True)
if system.syscall(442, -100, b"/", 0x8000, ctypes.byref(read_only), 32):
    sys.exit("mounts stay writable")
resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
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
    limits = [str(memory), str(int(seconds) + 1)]
    try:
        done = subprocess.run(
            [*command, *limits],
            input=f"{program}\nprint('\\n' + {sign!r})\n",
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            cwd="/",
            env={},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:g} s"
    except OSError as error:
        return str(error)
    if done.stdout.rstrip().endswith(sign):
        return "passed"
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
