"""What a program in the sandbox can and cannot do."""

import os
import time

import pytest

from relay_jax.rest import sandbox

try:
    sandbox.check()
except ValueError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("import random, math, typing, hashlib; print(1)", "passed"),
        ("assert 1 == 2, 'no'", "AssertionError: no"),
        ("import os; os._exit(0)", "exit code 0"),
        ("def f(:", "SyntaxError: "),
        ("x = bytearray(1 << 31)", "MemoryError"),
        ("while True: print('more')", "OSError: [Errno 27] File too large"),
        ("print('a' * (1 << 19))", "passed"),
        ("import os\nwhile True: os.write(2, b'more')", "moremore"),
        ("open('/tmp/relay_jax_was_here', 'w')", "OSError: [Errno 30] Read-only"),
        (
            "import socket; socket.create_connection(('127.0.0.1', 80), 1)",
            "OSError: [Errno 101] Network is unreachable",
        ),
    ],
)
def test_results(program, expected):
    assert sandbox.run(program).startswith(expected)


def test_the_time_limit_includes_child_processes():
    begin = time.monotonic()
    child = "import subprocess; subprocess.run(['sleep', '60'])"
    assert sandbox.run(child, seconds=1.0) == "stopped after 1 s"
    assert sandbox.run("while True: pass", seconds=1.0) == "stopped after 1 s"
    assert time.monotonic() - begin < 20


def test_a_machine_without_namespaces_runs_nothing(monkeypatch):
    monkeypatch.setattr(sandbox, "NAMESPACES", ("no-such-command",))
    with pytest.raises(ValueError, match="written by a model are not run here .*no-su"):
        sandbox.check()


@pytest.mark.skipif(os.getuid() == 0, reason="the machine's root is not limited")
def test_the_number_of_processes_is_limited():
    many = "import subprocess\nfor _ in range(64): subprocess.Popen(['sleep', '9'])"
    assert sandbox.run(many).startswith("BlockingIOError: ")
