"""Stands in for the programs that launchers call, under the name of each of them.

$WORLD is a directory. Every call is a line of its `calls.jsonl`. Its other files set
what happens: `states` (a line for each answer of `describe`, the last one stays),
`workers` (how many the slice has), `dropped` (the connection is lost at the end,
so gcloud sends the command again), `jobset` (there is one), `squeue` (its answer).
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

WORLD = pathlib.Path(os.environ["WORLD"])
NAME, ARGUMENTS = pathlib.Path(sys.argv[0]).name, sys.argv[1:]


def record(stdin):
    call = {"program": NAME, "arguments": ARGUMENTS, "stdin": stdin}
    with (WORLD / "calls.jsonl").open("a") as file:
        print(json.dumps(call), file=file)


def setting(name, default=""):
    path = WORLD / name
    return path.read_text() if path.exists() else default


def together(commands):
    """Runs (command, environment, directory)s at once; returns the highest exit code."""
    running = [
        subprocess.Popen(command, env=os.environ | more, cwd=directory)
        for command, more, directory in commands
    ]
    (WORLD / "running").write_text(" ".join(str(child.pid) for child in running))
    return max(abs(child.wait()) for child in running)


def home(worker):
    path = WORLD / f"worker{worker}"
    path.mkdir(exist_ok=True)
    return path


def gcloud():
    workers = range(int(setting("workers", "1")))
    if "describe" in ARGUMENTS:
        first, *rest = setting("states").split("\n")
        (WORLD / "states").write_text("\n".join(rest or [first]))
        if not first.isupper():
            sys.exit(f"ERROR: (gcloud) {first or 'NOT_FOUND: no such resource'}")
        print(first)
    elif "scp" in ARGUMENTS:
        source, destination = [a for a in ARGUMENTS[4:] if not a.startswith("--")]
        assert destination.endswith(":") and "--worker=all" in ARGUMENTS
        for worker in workers:
            shutil.copy(source, home(worker))
    elif "ssh" in ARGUMENTS:
        assert "--worker=all" in ARGUMENTS
        [command] = [a for a in ARGUMENTS if a.startswith("--command=")]
        shell = ["bash", "-c", command.removeprefix("--command=")]
        more = [{"HOME": str(home(w)), "WORKER": str(w)} for w in workers]
        status = together([(shell, m, m["HOME"]) for m in more])
        again = setting("dropped") and together([(shell, m, m["HOME"]) for m in more])
        return again or status


def kubectl():
    return int("get" in ARGUMENTS and not setting("jobset"))


def split():
    """The flags of sbatch or srun, and the command that follows them."""
    count = next(i for i, a in enumerate(ARGUMENTS) if not a.startswith("--"))
    flags = dict(a.partition("=")[::2] for a in ARGUMENTS[:count])
    return flags, ARGUMENTS[count:]


def sbatch():
    value, (script, *rest) = split()
    tasks = int(value["--nodes"]) * int(value["--ntasks-per-node"])
    copy = WORLD / "slurm_script"  # as slurmd does, which keeps the arguments
    shutil.copy(script, copy)
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": str(tasks),
        "SLURM_CPUS_PER_TASK": value["--cpus-per-task"],
    }
    batch = subprocess.Popen(
        ["bash", copy, *rest], env=os.environ | job, cwd=value["--chdir"]
    )
    (WORLD / "batch").write_text(str(batch.pid))
    (WORLD / "job_status").write_text(str(batch.wait()))


def srun():
    _, command = split()
    tasks = range(int(os.environ["SLURM_NTASKS"]))
    return together([(command, {"SLURM_PROCID": str(t)}, None) for t in tasks])


def scancel():
    for child in setting("running").split():
        os.kill(int(child), signal.SIGTERM)


def squeue():
    print(setting("squeue", "RUNNING"))


def curl():
    print(os.environ["WORKER"], end="")


if __name__ == "__main__":
    reads = {"--filename=-", "-"} & set(ARGUMENTS)
    record(stdin=sys.stdin.buffer.read().decode(errors="replace") if reads else "")
    sys.exit(globals().get(NAME, lambda: 0)())
