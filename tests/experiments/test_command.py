"""What every script does with errors, in this process."""

import jax
import pytest
from absl import flags
from etils import epath

from experiments import command


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
    with pytest.raises(TypeError), command.one_line_errors():  # a mistake of ours
        raise TypeError


@pytest.mark.parametrize("folder", ["file/run", "/proc/x/y"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, folder):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop, command.one_line_errors():
        command.make_folder(epath.Path(tmp_path / folder))
    told = str(stop.value.code)
    assert told.startswith(f"error: {tmp_path}/file") or "/proc/x" in told
    assert " cannot be used: " in told


def test_a_folder_that_is_made_is_empty(tmp_path):
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
def test_a_place_that_is_given_is_not_empty(argument, name):
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "runs", "", flag_values=values)
    flags.DEFINE_string("data_dir", "", "", flag_values=values)
    flags.DEFINE_list("run", None, "", flag_values=values)
    values(["script", "--workdir=a", "--run=a,b"])
    command.check_places(values)
    values(["script", argument])
    with pytest.raises(
        ValueError, match=f"--{name} has an empty name in it; give a pa"
    ):
        command.check_places(values)
