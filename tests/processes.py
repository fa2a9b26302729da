"""Real processes of one script, with several CPU devices each."""

import os
import pathlib
import socket
import subprocess
import sys

DEVICES = "--xla_force_host_platform_device_count"  # the last one counts
ROOT = pathlib.Path(__file__).parents[1]


def start(name, *arguments, processes=2, devices=2, **environment):
    """Starts a script in one or several processes, which form a cluster."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = (
        os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {DEVICES}={devices}",
        }
        | environment
    )
    started = []
    for number in range(processes):
        flags = f"--coordinator=localhost:{port}", f"--num_processes={processes}"
        flags = (*flags, f"--process_id={number}") if processes > 1 else ()
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", name, *arguments, *flags],
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def finish(started, codes=0, timeout=120):
    """Waits for all processes and returns the output and errors of each."""
    try:
        outputs = [process.communicate(timeout=timeout) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, outputs):
        assert process.returncode == codes, errors[-3000:]
    return outputs
