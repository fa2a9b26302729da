"""Runs scripts in forks of one process that has imported JAX already.

A script's start is mostly imports: five seconds, and tests start scripts some hundred
times. The server imports what all scripts need, but initializes no device and imports no
script; for each request it forks a child, which runs `python -m MODULE` as usual.
"""

import json
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
PRELOADED = (
    *("jax", "flax.linen", "ml_collections.config_flags", "matplotlib.figure"),
    *("relay_jax.relay.stages", "relay_jax.relay.chain_datastore"),
)
_servers: dict[str, subprocess.Popen] = {}


def run_script(module, arguments, environment, cwd=ROOT, stdin=""):
    """As `subprocess.run` of `python -m MODULE ARGUMENTS...`, with captured text."""
    server = _server(environment)
    with tempfile.TemporaryDirectory() as folder:
        files = {name: f"{folder}/{name}" for name in ("stdin", "stdout", "stderr")}
        pathlib.Path(files["stdin"]).write_text(stdin)
        request = {"module": module, "arguments": arguments, "files": files}
        request |= {"environment": environment, "cwd": str(cwd)}
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        assert answer, "the script server has ended"
        out, err = (pathlib.Path(files[name]) for name in ("stdout", "stderr"))
        out, err = out.read_text(), err.read_text()
    command = ["python", "-m", module, *arguments]
    return subprocess.CompletedProcess(command, int(answer), out, err)


def _server(environment):
    """The running server, which ends with this process, when its stdin is closed."""
    if "server" not in _servers:
        _servers["server"] = subprocess.Popen(
            [sys.executable, "-m", "tests.script_server"],
            cwd=ROOT,
            env=environment | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    return _servers["server"]


def serve():
    """Answers each request with the exit code of its script, until stdin is closed."""
    for name in PRELOADED:
        __import__(name)
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            return request
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    return None


def become(module, arguments, files, environment, cwd):
    """Runs a script in this process, which ends as the script does."""
    modes = os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_CREAT
    for number, (name, mode) in enumerate(zip(files, modes, strict=True)):
        os.dup2(os.open(files[name], mode), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["", *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    if request := serve():
        become(**request)
