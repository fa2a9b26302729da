"""Every launcher from its command line to the user's program, which really runs here;
only the clouds and clusters between them are simulated (`stand_in.py`)."""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]
STAND_IN = pathlib.Path(__file__).with_name("stand_in.py")
PROGRAMS = (
    *("gcloud", "kubectl", "sbatch", "srun", "scancel", "squeue", "scontrol"),
    *("curl", "docker"),
)
# Makes environments that hold nothing but itself, and installs nothing.
PYTHON = """#!/bin/bash
case "$*" in
  *_base_executable* | *'uv python find'*) echo "$0" ;;
  *'import ensurepip'*) [[ ! -e "$WORLD/old_python" ]] ;;
  '-m venv '*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *' pip install '* | '-m uv '*)
    printf '%s\\n' "$*" >>"$WORLD/python_calls"
    if [[ "$*" == *demo.txt && -e "$WORLD/no_network" ]]; then
      printf 'ERROR: one\\nERROR: no gguf\\n' >&2
      exit 1
    fi
    ;;
  *) exec REAL -S "$@" ;;
esac
""".replace("REAL", sys._base_executable)
ARGUMENTS = [
    *("a b", "", "it's", 'a "b"', "back\\slash", "$HOME `id` $(id) $$ $$(HOME)"),
    *(
        "* ? [a]",
        "two\nlines $(HOME) $$",
        "tab\there",
        "é",
        "--flag=a;b|c&d",
        "#no {comment}: -",
        "%s",
    ),
]
PROGRAM = """
import json, os, sys
place = os.environ.get("WORKER", os.environ.get("SLURM_PROCID", "0"))
with open(f"{os.environ['WORLD']}/program{place}.json", "w") as file:
    json.dump({
        "words": sys.argv[1:],
        "coordinator": os.environ.get("RELAY_JAX_COORDINATOR"),
        "directory": os.getcwd(),
        "module": __import__("experiments.here").here.__file__,
    }, file)
print("said by", place)
"""
# Records that it runs; at its first SIGTERM it saves and ends, at a second one it dies,
# as a training does.
TRAINING = """
import os, pathlib, signal, sys, time
world, place = pathlib.Path(os.environ["WORLD"]), os.environ.get("SLURM_PROCID", "0")
def save(*_):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(0.5)
    (world / f"saved{place}").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
(world / f"started{place}").touch()
time.sleep(60)
"""
TPU = ["--name=n", "--zone=z", "--accelerator=v5litepod-16", "--runtime=r"]
GKE_TPU = [
    *("--name=n", "--image=i:1", "--accelerator=tpu-v5-lite-podslice"),
    *("--topology=4x4", "--per_node=4"),
]
GKE_GPU = ["--name=n", "--image=i:1", "--accelerator=nvidia-h100-80gb", "--per_node=8"]
SLURM = ["--gpus=2"]
LAUNCHERS = {"tpu_pod": TPU, "gke": GKE_TPU, "slurm": SLURM}


class World:
    """A checkout, the programs that its launchers find, and what they were asked."""

    def __init__(self, path):
        self.path = path
        self.checkout = path / "check out"
        shutil.copytree(ROOT / "launch", self.checkout / "launch")
        (self.checkout / "experiments").mkdir()
        (self.checkout / "experiments" / "here.py").touch()
        for name in ("requirements.txt", "pyproject.toml", ".gitignore"):
            shutil.copy(ROOT / name, self.checkout)
        for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "."]):
            who = ["-c", "user.name=-", "-c", "user.email=-"]
            subprocess.run(["git", *who, *command], cwd=self.checkout, check=True)
        programs = path / "programs"
        programs.mkdir()
        text = f"#!{sys._base_executable} -IS\n{STAND_IN.read_text()}"
        for name in (*PROGRAMS, "python3"):
            (programs / name).write_text(PYTHON if name == "python3" else text)
            (programs / name).chmod(0o755)
        (path / "home").mkdir()
        self.environment = {
            "PATH": f"{programs}:/usr/bin:/bin",
            "HOME": str(path / "home"),
            "WORLD": str(path),
            "RELAY_POLL_SECONDS": "0",
        }

    def configure(self, **files):
        for name, text in files.items():
            (self.path / name).write_text(text)

    def start(self, name, *arguments, **environment):
        return subprocess.Popen(
            [self.checkout / "launch" / f"{name}.sh", *arguments],
            env=self.environment | environment,
            cwd=self.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def launch(self, name, *arguments, **environment):
        process = self.start(name, *arguments, **environment)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors

    def calls(self, program=""):
        path = self.path / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        calls = [json.loads(line) for line in lines]
        return [c for c in calls if program in ("", c["program"])]

    def verbs(self):
        """What gcloud was asked to do, in order."""
        verbs = ("describe", "create", "delete", "scp", "ssh")
        asked = [call["arguments"] for call in self.calls("gcloud")]
        return [verb for argv in asked for verb in verbs if verb in argv]

    def python_calls(self):
        """What pip and uv were asked for."""
        path = self.path / "python_calls"
        return path.read_text().splitlines() if path.exists() else []

    def installed(self):
        """What pip was asked for beyond the lists of versions."""
        lines = self.python_calls()
        return [line.split(" --editable ")[1] for line in lines if "--editable" in line]

    def programs(self):
        """What each process of the user's command saw."""
        files = sorted(self.path.glob("program*.json"))
        return [json.loads(file.read_text()) for file in files]

    def wait_for(self, name):
        end = time.monotonic() + 30
        while not (self.path / name).exists():
            assert time.monotonic() < end, f"no {name} in 30 s"
            time.sleep(0.02)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def command(program=PROGRAM, argv=ARGUMENTS):
    return ["--", "python", "-c", program, *argv]


def shown(output):
    """The calls that a dry run shows, as a shell reads them."""
    lines = [
        line
        for line in output.splitlines()
        if line.startswith(("gcloud ", "kubectl ", "sbatch "))
    ]
    configure = "for p in gcloud kubectl sbatch; do eval \"$p() { printf '%s\\0' $p \\\"\\$@\\\"; printf '\\1\\0'; }\"; done\n"
    done = subprocess.run(
        ["bash", "-c", configure + "\n".join(lines)], stdout=subprocess.PIPE, check=True
    )
    calls = done.stdout.decode().split("\0\1\0")[:-1]
    return [without_scratch(call.split("\0")) for call in calls]


def without_scratch(argv):
    return [re.sub(r"^/.*/relay_jax.tar.gz$", "ARCHIVE", token) for token in argv]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_dry_run_calls_nothing_and_shows_what_go_calls(world, name):
    world.configure(states="\nACTIVE")
    status, output, errors = world.launch(name, *LAUNCHERS[name], *command())
    assert status == 0, errors
    assert errors.endswith("relay_jax: nothing was run: add --go to do so\n")
    assert world.calls() == []
    assert not (world.checkout / ".venv").exists()

    status, _, errors = world.launch(name, *LAUNCHERS[name], "--go", *command())
    assert status == 0, errors
    assert "nothing was run" not in errors
    called = [
        [call["program"], *without_scratch(call["arguments"])]
        for call in world.calls()
        if call["program"] in ("gcloud", "kubectl", "sbatch")
        and not {"describe", "get"} & set(call["arguments"])
    ]
    assert shown(output) == called != []


@pytest.mark.parametrize("name", ["tpu_pod", "gke"])
def test_to_delete_is_a_dry_run_too(world, name):
    arguments = "--name=n", "--zone=z", "--delete"
    if name == "gke":
        arguments = "--name=n", "--delete"
    status, output, errors = world.launch(name, *arguments)
    assert status == 0, errors
    assert world.calls() == []
    assert world.launch(name, *arguments, "--go")[0] == 0
    [call] = world.calls()
    assert shown(output) == [[call["program"], *call["arguments"]]]
    assert "delete" in call["arguments"]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("tpu_pod", TPU[1:], "--name is missing: give --name=... or set RELAY_NAME"),
        ("tpu_pod", TPU[:1], "--zone is missing: give --zone=... or set RELAY_ZONE"),
        ("tpu_pod", [*TPU[:2], *TPU[3:]], "--accelerator is missing: give --acc"),
        ("tpu_pod", TPU[:3], "--runtime is missing: give --runtime=... or set RELAY_R"),
        ("tpu_pod", [*TPU, "--zone="], "--zone is missing: give --zone=... or set RE"),
        ("gke", GKE_TPU[1:], "--name is missing: give --name=... or set RELAY_NAME"),
        ("gke", GKE_GPU[:1], "--image is missing: give --image=... or set RELAY_IMAGE"),
        ("gke", GKE_GPU[:2], "--accelerator is missing: give --accelerator=... or se"),
        (
            "gke",
            GKE_GPU[:3],
            "--per_node is missing: give --per_node=... or set RELAY_",
        ),
        (
            "gke",
            [*GKE_GPU, "--count=two"],
            "--count is a whole number above zero, not '",
        ),
        ("gke", [*GKE_TPU, "--topology=4"], "--topology is like 4x4, not 4"),
        ("gke", [*GKE_TPU, "--per_node=3"], "4x4 has 16 chips, no multiple of --per_n"),
        ("slurm", [], "--gpus is missing: give --gpus=... or set RELAY_GPUS"),
        ("slurm", ["--gpus=0"], "--gpus is a whole number above zero, not '0'"),
        *((name, ["--zon=z"], "cannot use --zon=z: ") for name in LAUNCHERS),
        ("tpu_pod", ["--zone", "z"], "cannot use --zone: "),
        ("tpu_pod", ["--go=yes"], "cannot use --go=yes: "),
        ("slurm", ["python"], "cannot use python: "),
    ],
)
def test_missing_or_wrong_values_end_in_one_line(world, name, arguments, message):
    status, output, errors = world.launch(name, *arguments, "--go", *command())
    assert (status, output) == (1, "")
    assert errors.startswith(f"relay_jax: {message}")
    assert errors.count("\n") == 1
    assert world.calls() == []


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_command_is_needed(world, name):
    for rest in ([], ["--"]):
        status, output, errors = world.launch(name, *LAUNCHERS[name], "--go", *rest)
        assert (status, output) == (1, "")
        assert errors.startswith("relay_jax: the command is missing: give it after --")
    assert world.calls() == []


def test_values_come_from_the_environment_and_flags_go_first(world):
    overrides = {"RELAY_NAME": "m", "RELAY_ZONE": "y", "RELAY_PROJECT": "p"}
    status, output, errors = world.launch(
        "tpu_pod", "--zone=z", "--delete", **overrides
    )
    assert status == 0, errors
    assert shlex.split(output)[5:8] == ["m", "--zone=z", "--project=p"]


def test_help_is_the_head_of_the_script(world):
    for name, arguments in LAUNCHERS.items():
        status, output, _ = world.launch(name, "--help")
        assert status == 0
        for argument in arguments:
            assert argument.partition("=")[0] in output
        assert "--go" in output and "set -" not in output


# Cloud TPU


@pytest.mark.parametrize(
    ("states", "verbs"),
    [
        ("ACTIVE", []),
        ("\nACCEPTED\nPROVISIONING\nACTIVE", ["create", *3 * ["describe"]]),
        ("WAITING_FOR_RESOURCES\nACTIVE", ["describe"]),
        ("SUSPENDED\nACTIVE", ["delete", "create", "describe"]),
        ("FAILED\nACTIVE", ["delete", "create", "describe"]),
        ("SUSPENDING\nSUSPENDED\nACTIVE", ["describe", "delete", "create", "describe"]),
    ],
)
def test_the_queued_resource_is_created_or_used(world, states, verbs):
    world.configure(states=states)
    status, _, errors = world.launch("tpu_pod", *TPU, "--spot", "--go", *command())
    assert status == 0, errors
    assert world.verbs() == ["describe", *verbs, "scp", "ssh"]
    for call in world.calls("gcloud"):
        argv = call["arguments"]
        assert "--zone=z" in argv and {"n", "n:"} & set(argv)
        if "create" in argv:
            wanted = ["--node-id=n", "--accelerator-type=v5litepod-16"]
            assert argv[-4:] == [*wanted, "--runtime-version=r", "--spot"]
    assert len(world.programs()) == 1


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED", ""])
def test_a_resource_that_fails_or_disappears_ends_in_one_line(world, state):
    world.configure(states=f"\nPROVISIONING\n{state}")
    status, _, errors = world.launch("tpu_pod", *TPU, "--go", *command())
    assert status == 1
    assert world.verbs() == ["describe", "create", "describe", "describe"]
    last = errors.splitlines()[-1]
    assert last.startswith(f"relay_jax: n is {state or 'gone'}: gcloud compute tpus ")


def test_an_error_of_gcloud_does_not_count_as_a_missing_resource(world):
    world.configure(states="PERMISSION_DENIED: who are you")
    status, _, errors = world.launch("tpu_pod", *TPU, "--go", *command())
    assert (status, world.verbs()) == (1, ["describe"])
    assert errors == "relay_jax: ERROR: (gcloud) PERMISSION_DENIED: who are you\n"


def test_every_worker_runs_the_command_in_the_tree_as_it_is(world):
    world.configure(states="ACTIVE", workers="2")
    assert world.launch("tpu_pod", *TPU, "--go", *command())[0] == 0
    for worker in range(2):
        (world.path / f"worker{worker}" / "relay_jax" / "result").touch()
        (world.path / f"worker{worker}" / "relay_jax.log").unlink()
    (world.checkout / "experiments" / "here.py").write_text("changed = True\n")
    (world.checkout / "launch" / "test.sh").unlink()
    (world.checkout / "untracked").touch()
    before = git_state(world.checkout)
    status, output, errors = world.launch("tpu_pod", *TPU, "--go", *command())
    assert status == 0, errors
    assert git_state(world.checkout) == before
    for worker, seen in enumerate(world.programs()):
        tree = world.path / f"worker{worker}" / "relay_jax"
        assert seen == {
            "words": ARGUMENTS,
            "coordinator": "auto",
            "directory": str(tree),
            "module": str(tree / "experiments" / "here.py"),
        }
        assert (tree / "experiments" / "here.py").read_text() == "changed = True\n"
        assert (tree / "result").exists()  # of the earlier command
        assert (tree / "launch" / "local.sh").exists()
        assert not (tree / "launch" / "test.sh").exists()
        assert not (tree / "untracked").exists()
        log = (tree.parent / "relay_jax.log").read_text()
        assert log == f"said by {worker}\n"
    assert len(world.programs()) == 2
    assert "said by 0\n" in output and "said by 1" not in output
    assert sorted(
        map(pathlib.Path.name.fget, map(pathlib.Path, world.installed()))
    ) == 2 * ["relay_jax[tpu,gcs]"]


def git_state(checkout):
    command = ["git", "status", "--porcelain=v2", "--branch", "--show-stash"]
    return subprocess.check_output(command, cwd=checkout)


def test_a_worker_installs_once_for_all_trees_with_the_same_locks(world):
    world.configure(states="ACTIVE")
    lock = world.checkout / "launch" / "locks" / f"py3{sys.version_info.minor}.txt"
    for change, times in (("", 1), ("# changed\n", 2)):
        lock.write_text(lock.read_text() + change)
        for _ in range(2):
            status, _, errors = world.launch("tpu_pod", *TPU, "--go", *command())
            assert status == 0, errors
            assert len(world.installed()) == times


def test_a_worker_with_an_old_python_gets_a_newer_one(world):
    world.configure(states="ACTIVE", old_python="yes")
    status, _, errors = world.launch("tpu_pod", *TPU, "--go", *command())
    assert status == 0, errors
    assert world.python_calls()[:2] == [
        *("-m pip install -qq --user uv", "-m uv python install -q 3.12")
    ]
    assert len(world.programs()) == 1


def test_the_exit_code_of_a_worker_is_that_of_the_launcher(world):
    world.configure(states="ACTIVE", workers="2")
    fails = "import os, sys; sys.exit(3 * int(os.environ['WORKER']))"
    status, _, _ = world.launch(
        "tpu_pod", *TPU, "--delete", "--go", *command(program=fails)
    )
    assert (status, world.verbs()[-1]) == (3, "ssh")  # nothing is deleted
    status, _, errors = world.launch("tpu_pod", *TPU, "--delete", "--go", *command())
    assert status == 0, errors
    assert world.verbs()[-2:] == ["ssh", "delete"]


def test_a_lost_connection_is_no_success(world):
    world.configure(states="ACTIVE", dropped="yes")
    status, _, errors = world.launch("tpu_pod", *TPU, "--delete", "--go", *command())
    assert status != 0 and world.verbs()[-1] == "ssh"  # nothing is deleted
    assert errors.splitlines()[-1] == "relay_jax: n is still there, and costs"
    assert len(world.programs()) == 1  # and nothing is started again


def test_the_same_call_again_lets_the_earlier_command_save_first(world):
    world.configure(states="ACTIVE")
    first = world.start("tpu_pod", *TPU, "--go", *command(TRAINING))
    world.wait_for("started0")
    second = (
        "import os, sys; sys.exit(not os.path.exists(os.environ['WORLD'] + '/saved0'))"
    )
    status, _, errors = world.launch("tpu_pod", *TPU, "--go", *command(second))
    assert status == 0, errors
    assert "an earlier command runs here: it is told to save and end" in errors
    first.communicate(timeout=30)
    assert first.returncode == 143


def test_a_command_outlives_the_connection(world):
    (world.path / "home" / "relay_jax").mkdir()
    archive = world.path / "home" / "relay_jax.tar.gz"
    tree = ["git", "archive", f"--output={archive}", "HEAD"]
    subprocess.run(tree, cwd=world.checkout, check=True)
    program = (
        "import os, pathlib, time\n"
        "world = pathlib.Path(os.environ['WORLD'])\n"
        "(world / 'started').touch()\n"
        "while not (world / 'cut').exists(): time.sleep(.02)\n"
        "for line in range(3): print(line, flush=True); time.sleep(.1)\n"
        "(world / 'ended').touch()\n"
    )
    argv = command(program, argv=[])[1:]
    process = world.start("tpu_worker", *argv, WORKER="0")
    world.wait_for("started")
    process.stdout.close()
    world.configure(cut="")
    assert process.wait(timeout=30) == 0
    process.stderr.close()
    assert (world.path / "ended").exists()
    assert (world.path / "home" / "relay_jax.log").read_text() == "0\n1\n2\n"


# GKE


def expand(text, variables):
    """What Kubernetes makes of a container's command."""

    def value(match):
        if match[0] == "$$":
            return "$"
        return variables.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([A-Za-z_]\w*)\)", value, text)


def applied(world, *arguments):
    status, output, errors = world.launch("gke", *arguments, "--go", *command())
    assert status == 0, errors
    call = world.calls("kubectl")[-1]
    assert call["arguments"][-2:] == ["apply", "--filename=-"]
    assert call["stdin"].rstrip() in output
    return yaml.safe_load(call["stdin"])


def run_pod(world, jobset, index):
    """Runs the container of a pod, in the checkout instead of in an image of it."""
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert container["workingDir"] == "/relay_jax"
    variables = {"JOB_COMPLETION_INDEX": index, "HOME": "of Kubernetes", "id": "no"}
    done = subprocess.run(
        [expand(token, variables) for token in container["command"]],
        env=world.environment | variables | {"HOME": str(world.path / "home")},
        cwd=world.checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return world.programs()[0]


def test_a_tpu_jobset(world):
    options = "--count=2", "--spot", "--context=c", "--namespace=s", "--restarts=3"
    jobset = applied(world, *GKE_TPU, *options, "--service_account=w")
    for call in world.calls("kubectl"):
        assert call["arguments"][:2] == ["--context=c", "--namespace=s"]
    assert jobset["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert (jobset["kind"], jobset["metadata"]["name"]) == ("JobSet", "n")
    annotations = jobset["metadata"]["annotations"]
    exclusive = "alpha.jobset.sigs.k8s.io/exclusive-topology"
    assert annotations == {exclusive: "cloud.google.com/gke-nodepool"}
    assert jobset["spec"]["failurePolicy"] == {"maxRestarts": 3}
    [workers] = jobset["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    assert (workers["name"], workers["replicas"]) == ("workers", 2)
    assert (job["parallelism"], job["completions"], job["backoffLimit"]) == (4, 4, 0)
    pod = job["template"]["spec"]
    assert (pod["restartPolicy"], pod["serviceAccountName"]) == ("Never", "w")
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
        "cloud.google.com/gke-spot": "true",
    }
    [container] = pod["containers"]
    assert container["image"] == "i:1"
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    seen = run_pod(world, jobset, "1")
    assert (seen["words"], seen["coordinator"]) == (ARGUMENTS, "auto")
    assert seen["module"] == str(world.checkout / "experiments" / "here.py")
    assert world.installed()[0].endswith("[tpu,gcs]")


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_gpu_jobset(world, nodes):
    jobset = applied(world, *GKE_GPU, f"--count={nodes}")
    assert not jobset["metadata"]["annotations"]
    [workers] = jobset["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    assert (workers["replicas"], job["parallelism"], job["completions"]) == (
        *(1, nodes),
        nodes,
    )
    assert job["completionMode"] == "Indexed"
    pod = job["template"]["spec"]
    selector = {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    assert pod["nodeSelector"] == selector
    assert pod["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": 8}}
    seen = run_pod(world, jobset, "1")
    expected = [
        "--coordinator=n-workers-0-0.n:8476",
        "--num_processes=2",
        "--process_id=1",
    ]
    assert seen["words"] == ARGUMENTS + (expected if nodes == 2 else [])
    assert seen["coordinator"] is None
    assert world.installed()[0].endswith("[cuda,gcs]")


def test_a_jobset_of_that_name_is_not_touched(world):
    world.configure(jobset="yes")
    status, _, errors = world.launch("gke", *GKE_GPU, "--go", *command())
    assert status == 1
    assert errors.startswith("relay_jax: there is a JobSet n: end it with ")
    assert [call["arguments"][0] for call in world.calls()] == ["get"]


# Slurm


def test_a_slurm_job_runs_a_process_on_each_gpu(world):
    options = "--cpus=3", "--partition=p", "--account=a", "--time=1:00", "--name=j"
    status, _, errors = world.launch(
        "slurm", *SLURM, "--nodes=2", *options, "--go", *command()
    )
    assert status == 0, errors
    [call] = world.calls("sbatch")
    for flag in (
        *("--job-name=j", "--nodes=2", "--gpus-per-node=2", "--ntasks-per-node=2"),
        *("--cpus-per-task=3", "--partition=p", "--account=a", "--time=1:00"),
        *("--requeue", "--signal=B:USR1@120", f"--chdir={world.checkout}"),
    ):
        assert flag in call["arguments"]
    [step] = world.calls("srun")
    assert "--cpus-per-task=3" in step["arguments"]
    assert (world.path / "job_status").read_text() == "0"
    assert len(world.programs()) == 4
    for seen in world.programs():
        assert seen == {
            "words": ARGUMENTS,
            "coordinator": "auto",
            "directory": str(world.checkout),
            "module": str(world.checkout / "experiments" / "here.py"),
        }
    assert [package[-10:] for package in world.installed()] == ["[cuda,gcs]"]
    assert not world.calls("scontrol")


def test_one_process_on_one_gpu_is_not_a_cluster(world):
    status, _, errors = world.launch("slurm", "--gpus=1", "--go", *command())
    assert status == 0, errors
    [seen] = world.programs()
    assert seen["coordinator"] is None
    [call] = world.calls("sbatch")
    assert not [token for token in call["arguments"] if token.startswith("--partition")]


@pytest.mark.parametrize(
    ("number", "state", "times"),
    [
        (signal.SIGUSR1, "RUNNING", 1),  # the time is nearly up, by --signal
        (signal.SIGTERM, "RUNNING", 1),  # preempted, with time to save in
        (signal.SIGTERM, "COMPLETING", 0),  # cancelled by its owner
    ],
)
def test_a_slurm_job_saves_and_is_queued_again(world, number, state, times):
    world.configure(squeue=state)
    process = world.start("slurm", *SLURM, "--go", *command(TRAINING))
    for task in range(2):
        world.wait_for(f"started{task}")
    expected = ["batch", "running"] if number == signal.SIGTERM else ["batch"]
    for file in expected:
        for child in (world.path / file).read_text().split():
            os.kill(int(child), number)
    process.communicate(timeout=30)
    assert (world.path / "saved0").exists() and (world.path / "saved1").exists()
    assert (world.path / "job_status").read_text() == "143"
    requeued = [call["arguments"] for call in world.calls("scontrol")]
    assert requeued == times * [["requeue", "7"]]


def test_a_slurm_job_that_fails_is_not_queued_again(world):
    fails = command(program="import sys; sys.exit(3)")
    world.launch("slurm", "--gpus=1", "--go", *fails)
    assert (world.path / "job_status").read_text() == "3"
    assert not world.calls("scontrol")


# Here

# A script of `experiments`, which records its arguments and may fail.
PART = """
import os, pathlib, sys
world, name = pathlib.Path(os.environ["WORLD"]), pathlib.Path(__file__).stem
with open(world / "parts", "a") as file:
    print(name, *sys.argv[1:], file=file)
sys.exit((world / f"{name}_fails").exists())
"""


@pytest.fixture
def local(world):
    """Runs local.sh; returns its exit code, the parts it started, and its messages."""
    for name in ("quickstart", "rest_demo"):
        (world.checkout / "experiments" / f"{name}.py").write_text(PART)

    def launch(*arguments):
        (world.path / "parts").unlink(missing_ok=True)
        status, _, errors = world.launch("local", *arguments)
        parts = world.path / "parts"
        return status, parts.read_text().splitlines() if parts.exists() else [], errors

    return launch


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["quickstart", "rest_demo"]),
        (["--only=relay", "--jobs=1"], ["quickstart --jobs=1"]),
        (["--count=2", "--only=rest"], ["rest_demo --count=2"]),
        (["--only=rest", "--workdir=x"], ["rest_demo --workdir=x/rest"]),
        (
            ["--seed=1", "--workdir=x y"],
            ["quickstart --workdir=x y --seed=1", "rest_demo --workdir=x y/rest"],
        ),
        (["--seed=1", "-h"], ["quickstart --help", "rest_demo --help"]),
        (["--help", "--only=rest"], ["rest_demo --help"]),
    ],
)
def test_the_first_command_runs_both_papers_or_one(local, world, arguments, parts):
    status, started, errors = local(*arguments)
    assert (status, started) == (0, parts), errors
    installs = [call for call in world.python_calls() if "demo.txt" in call]
    needed = "--only=relay" not in arguments and not {"-h", "--help"} & set(arguments)
    assert len(installs) == needed
    assert all("--no-deps" in call for call in installs)


def test_rest_is_not_shown_after_a_failure_of_relay(local, world):
    world.configure(quickstart_fails="")
    assert local("--seed=1")[:2] == (1, ["quickstart --seed=1"])


@pytest.mark.parametrize("argument", ["--only=both", "--only", "--workdir"])
def test_other_parts_end_in_one_line(local, world, argument):
    status, started, errors = local(argument)
    assert (status, started, errors.count("\n")) == (1, [], 1)
    assert errors.startswith(f"relay_jax: cannot use {argument}")
    assert not world.python_calls()


def test_without_a_network_the_rest_goes_on(local, world):
    world.configure(no_network="")
    status, started, errors = local("--only=rest")
    assert (status, started) == (0, ["rest_demo"])
    message = (
        "cannot be had now, REST is shown on a model trained here: ERROR: no gguf\n"
    )
    assert errors.endswith(message) and "ERROR: one" not in errors
    (world.path / "no_network").unlink()
    first = len(world.python_calls())
    for _ in range(2):
        status, _, errors = local("--only=rest")
        assert status == 0 and "anew" not in errors  # the environment was kept
    assert [call.split("/")[-1] for call in world.python_calls()[first:]] == [
        "demo.txt"
    ]


# All


def test_run_needs_a_kind_of_machine_and_a_command(world):
    for arguments, message in (
        ([], "give a kind of machine and a command: "),
        (["cuda"], "give a kind of machine and a command: "),
        (["gpu", "true"], "there is no kind of machine gpu; give cpu, cuda or tpu"),
    ):
        status, output, errors = world.launch("run", *arguments)
        assert (status, output) == (1, "")
        assert errors.startswith(f"relay_jax: {message}") and errors.count("\n") == 1
    assert world.calls() == []


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [({}, "glibc.malloc.hugetlb=1"), ({"GLIBC_TUNABLES": ""}, "")],
)
def test_large_pages_are_requested_unless_the_user_sets_them(overrides, expected):
    shell = 'source launch/environment.sh; large_pages; printf %s "$GLIBC_TUNABLES"'
    inherited = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    command = ["bash", "-euc", shell]
    output = subprocess.check_output(
        command, cwd=ROOT, env=inherited | overrides, text=True
    )
    assert output == expected


def test_the_page_of_commands_is_a_dry_run_of_all_of_them(world):
    page = (ROOT / "docs" / "multi_device.md").read_text()
    blocks = re.findall("```bash\n(.*?)```", page, re.DOTALL)
    for name in ("local", "run"):  # these would work here
        (world.checkout / "launch" / f"{name}.sh").write_text("#!/bin/bash\n")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)],
        env=world.environment,
        cwd=world.checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert {call["program"] for call in world.calls()} == {"docker"}
    launched = len(
        re.findall(r"^\./launch/(?:tpu_pod|gke|slurm)\.sh", page, re.MULTILINE)
    )
    assert done.stderr.count("nothing was run: add --go") == launched >= 9


def test_launchers_are_short():
    for path in ROOT.glob("launch/*.sh"):
        if path.name != "environment.sh":
            assert len(path.read_text().splitlines()) <= 60, path


# Records the flags of each call; the second curve runs out of time.
REPRODUCE = """
import json, os, pathlib, sys
file = pathlib.Path(os.environ["WORLD"]) / "curves.jsonl"
with file.open("a") as lines:
    lines.write(json.dumps(sys.argv[1:]) + "\\n")
sys.exit(int(os.environ.get("EXIT" + str(len(file.read_text().splitlines())), "0")))
"""


def test_gpu_minutes_makes_one_curve_after_another_until_time_is_over(world):
    script = world.checkout / "experiments" / "reproduce.py"
    script.write_text(REPRODUCE)
    (world.path / "programs" / "python").symlink_to(world.path / "programs" / "python3")

    def curves(**exits):
        file = world.path / "curves.jsonl"
        file.unlink(missing_ok=True)
        code, _, errors = world.launch(
            "gpu_minutes", "10", "a folder", "--recipe=reduced", **exits
        )
        calls = [json.loads(line) for line in file.read_text().splitlines()]
        for call in calls:
            values = dict(flag.removeprefix("--").split("=", 1) for flag in call)
            assert values["figure"] == "4" and values["recipe"] == "reduced"
            assert values["workdir"] == "a folder"
            assert 8 < float(values["minutes"]) <= 9.25  # 45 s are for saving
        names = [
            re.search("--stages=multitask/([^']*)'", str(call))[1] for call in calls
        ]
        return code, names, errors

    code, names, errors = curves()
    assert code == 0 and errors.endswith("the same command goes on\n")
    assert names == [
        *("looped_aligned", "ar", "looped_vanilla"),
        *("ar_relay", "ar_self_oracle_5", "ar_self_loop_5"),
    ]
    assert curves(EXIT2="143")[:2] == (0, names[:2])  # out of time
    assert curves(EXIT2="1")[:2] == (1, names[:2])  # an error
    code, _, errors = world.launch("gpu_minutes", "ten", "folder")
    assert code == 1 and "--minutes is a whole number above zero, not 'ten'" in errors


def test_shellcheck_finds_nothing():
    beside = pathlib.Path(sys.executable).with_name("shellcheck")
    shellcheck = beside if beside.exists() else shutil.which("shellcheck")
    if not shellcheck:
        pytest.skip("shellcheck is not installed; launch/locks/test.txt has it")
    scripts = [*ROOT.glob("launch/**/*.sh"), ROOT / ".ci" / "run"]
    assert len(scripts) > 10
    command = [shellcheck, "--external-sources", *scripts]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stdout
