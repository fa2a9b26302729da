"""What every script does with errors, in this process."""

import jax
import pytest
from absl import flags
from absl.testing import flagsaver
from etils import epath

from experiments import command, processes
from relay_jax import aliases


@pytest.fixture(autouse=True)
def parsed():
    flags.FLAGS.mark_as_parsed()


def ending(error):
    with pytest.raises(SystemExit) as stop, command.one_line_errors():
        raise error
    return stop.value.code


def test_errors_of_a_user_end_in_a_line():
    assert ending(ValueError("a is 1")) == "error: a is 1"
    assert ending(FloatingPointError("the loss is nan")) == "error: the loss is nan"
    assert ending(OSError(28, "No space left on device", "/full/x")) == (
        "error: /full/x cannot be used: No space left on device; give a path of an "
        "existing disk that you may read and write, with room on it"
    )
    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
    assert ending(full).startswith("error: the device has too little memory (RESOURCE")
    with pytest.raises(jax.errors.JaxRuntimeError), command.one_line_errors():
        raise jax.errors.JaxRuntimeError("INTERNAL: a mistake")
    assert ending(ImportError("Please install gcsfs")) == "error: Please install gcsfs"
    with pytest.raises(ModuleNotFoundError), command.one_line_errors():
        raise ModuleNotFoundError("No module named 'x'", name="x")
    with pytest.raises(TypeError), command.one_line_errors():  # a programming error
        raise TypeError


@pytest.mark.parametrize("folder", ["file/run", "/proc/x/y"])
def test_a_folder_that_cannot_be_created_is_named(tmp_path, folder):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop, command.one_line_errors():
        command.make_folder(epath.Path(tmp_path / folder))
    line = str(stop.value.code)
    assert line.startswith(f"error: {tmp_path}/file") or "/proc/x" in line
    assert " cannot be used: " in line


def test_a_new_folder_is_empty(tmp_path):
    for _ in range(2):  # it may be there already
        command.make_folder(epath.Path(tmp_path / "a" / "b"))
    assert not list((tmp_path / "a" / "b").iterdir())


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        *(("--workdir=", "workdir"), ("--run=", "run")),
        *(("--run=a,,b", "run"), ("--data_dir=", "data_dir")),
    ],
)
def test_an_empty_path_is_refused(argument, name):
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "runs", "", flag_values=values)
    flags.DEFINE_string("data_dir", "", "", flag_values=values)
    flags.DEFINE_list("run", None, "", flag_values=values)
    values(["script", "--workdir=a", "--run=a,b"])
    command.check_paths(values)
    values(["script", argument])
    with pytest.raises(
        ValueError, match=f"--{name} has an empty name in it; give a pa"
    ):
        command.check_paths(values)


def test_a_renamed_config_key_says_its_new_name():
    argv = ["train", "--config=experiments/configs/tiny.py"]
    command.check_config([*argv, "--config.model.input_injection=hidden"])
    renamed = "config.model.loop_input is now config.model.input_injection"
    with pytest.raises(ValueError, match=renamed):
        command.check_config([*argv, "--config.model.loop_input=hidden"])


def test_the_records_file_must_be_writable_but_need_not_exist(tmp_path):
    values = flags.FlagValues()
    flags.DEFINE_string("records", "", "", flag_values=values)
    for path_value in (tmp_path / "new" / "records.jsonl", ""):
        values(["script", f"--records={path_value}"])
        command.check_paths(values)
    assert not list((tmp_path / "new").iterdir())
    (tmp_path / "file").touch()
    for path_value in (tmp_path / "file" / "records.jsonl", tmp_path):
        values(["script", f"--records={path_value}"])
        with pytest.raises(
            ValueError, match=f"--records={path_value} cannot be written"
        ):
            command.check_paths(values)


@pytest.mark.parametrize(
    "path_value, is_shared, message",
    [
        ({"coordinator": "host:1"}, False, "is the work of one process: start it once"),
        ({"process_id": 0}, False, "without --coordinator, --num_processes and --proc"),
        (
            {"coordinator": "host"},
            True,
            "needs --num_processes and a --process_id below",
        ),
        (
            {"coordinator": "host:1", "num_processes": 2},
            True,
            "got 'host:1', 2 and None",
        ),
        (
            {"coordinator": "host:1", "num_processes": 2, "process_id": 2},
            True,
            "a --process_id below it, got 'host:1', 2 and 2; or give --coordinator=auto",
        ),
        (
            {"coordinator": "host:x", "num_processes": 1, "process_id": 0},
            True,
            "=HOST:PORT needs .* got 'host:x', 1 and 0",
        ),
        ({"num_processes": 2}, True, "--num_processes and --process_id need --coord"),
    ],
)
def test_the_flags_of_a_cluster_must_be_complete(
    path_value, is_shared, message, monkeypatch
):
    monkeypatch.setattr(jax.distributed, "initialize", None)
    refused = pytest.raises(ValueError, match=message)
    with flagsaver.flagsaver(**path_value), refused:
        processes.connect(is_shared, "experiments.train")


def test_a_cluster_is_asked_for_by_a_flag_or_the_environment(monkeypatch):
    met = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *who: met.append(who))
    for default, path_value, is_shared, expected in [
        ("", None, True, []),
        ("", "auto", True, [(None, None, None)]),
        ("auto", None, True, [(None, None, None)]),
        ("auto", "", True, []),  # the flag has precedence
        ("auto", None, False, []),
    ]:
        monkeypatch.setenv(processes.COORDINATOR, default)
        met.clear()
        with flagsaver.flagsaver(coordinator=path_value):
            processes.connect(is_shared, "experiments.train")
        assert met == expected
    for name, value in (("SLURM_NTASKS", "2"), ("TPU_WORKER_HOSTNAMES", "a,b")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with pytest.raises(
                ValueError, match="of one process, and 2 were started: "
            ):
                processes.connect(False, "experiments.train")
            patch.delenv(processes.COORDINATOR)  # a job that the user started
            processes.connect(False, "experiments.train")
    monkeypatch.undo()
    refused = pytest.raises(ValueError, match="auto finds no cluster here")
    with flagsaver.flagsaver(coordinator="auto"), refused:
        processes.connect(True, "experiments.train")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("far.py:lis/looped_aligned", "length_extrapolation.py:lis/looped_aligned"),
        ("quickstart_lis.py:ar", "quickstart.py:lis/ar"),
        ("quickstart_self_made.py", "quickstart.py:self_made"),
        ("small.py:multitask/ar", "reduced.py:multitask/ar"),
    ],
)
def test_a_config_of_an_earlier_version_has_a_new_name(old, new):
    folder = "experiments/configs"
    with pytest.raises(ValueError) as error:
        command.check_config([f"--config={folder}/{old}"])
    assert str(error.value) == f"--config: {folder}/{old} is now {folder}/{new}"
    command.check_config([f"--config={folder}/{new}"])


def test_every_renamed_config_exists():
    for new in aliases.CONFIG_FILES.values():
        command.check_config([f"--config=experiments/configs/{new}"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--run=~/a,b"], ["HOME/a", "b"]),
        (["--run=x,y"], ["x,y"]),  # it exists, and its parts do not
        (["--run=x,y,b"], ["x", "y", "b"]),
        (['--run="x,y",b'], ["x,y", "b"]),
        (["--run=b,b"], ["b", "b"]),
        (["--workdir=~/a b/"], "HOME/a b/"),
        (["--workdir=~"], "~"),  # it exists
        (["--workdir=file:///a/b"], "/a/b"),
        (["--run=file:///a,gs://b/c"], ["/a", "gs://b/c"]),
        (["--workdir=-a[1]"], "-a[1]"),
        (["--workdir=./~/a"], "./~/a"),
        (["--prompt=~/a"], "~/a"),  # a text
    ],
)
def test_names_in_flags(tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "HOME")
    for name in ("x,y", "b", "~"):
        (tmp_path / name).mkdir()
    values = flags.FlagValues()
    flags.DEFINE_list("run", None, "", flag_values=values)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    flags.DEFINE_string("prompt", None, "", flag_values=values)
    values(["script", *arguments])
    command.expand_paths(values)
    (value,) = (flag.value for flag in values._flags().values() if flag.value)
    assert value == expected


def test_a_config_with_a_colon_in_its_name_is_refused(tmp_path):
    file = tmp_path / "a:b.py"
    file.write_text("")
    with pytest.raises(ValueError, match="a:b.py' has a colon, which separates a file"):
        command.check_config(["train", f"--config={file}"])
