"""Array files of users: a damaged file is an error of one line that names it."""

import numpy as np
import pytest

from relay_jax.files import open_tokens, read_integer_arrays

NAMES = ("tokens", "starts")


def write(path, kind):
    """Writes a file of a kind and returns its path."""
    file = path / kind
    tokens = np.arange(2000, dtype=np.uint16)
    with file.open("wb") as stream:
        if kind == "folder":
            stream.close()
            file.unlink()
            file.mkdir()
        elif kind.startswith("archive"):
            np.savez_compressed(stream, tokens=tokens, starts=np.zeros(1, int))
        elif kind == "one array":
            np.savez(stream, other=tokens)
        elif kind == "text":
            stream.write(b"1,2,3\n")
        elif kind == "objects":
            np.save(stream, np.array([{}]))
        elif kind == "floats":
            np.save(stream, tokens / 2)
        elif kind == "table":
            np.save(stream, tokens.reshape(2, -1))
        elif kind == "float archive":
            np.savez(stream, tokens=tokens, starts=np.zeros(1))
        elif kind != "empty":
            np.save(stream, tokens)
    if "cut" in kind:
        file.write_bytes(file.read_bytes()[:-700])
    if "altered" in kind:
        content = bytearray(file.read_bytes())
        content[200:240] = bytes(40)
        file.write_bytes(content)
    return file


def test_good_files_are_read(tmp_path):
    tokens = open_tokens(write(tmp_path, "tokens"), "")
    assert isinstance(tokens, np.memmap) and len(tokens) == 2000
    tokens, starts = read_integer_arrays(write(tmp_path, "archive"), NAMES, "")
    assert len(tokens) == 2000 and starts == [0]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "archive",
            "expected a .npy file of token ids: the file is damaged or something",
        ),
        ("tokens, cut", "cannot be read (mmap length is greater than file size); exp"),
        ("text", "expected a .npy file of token ids: the file is damaged or something"),
        (
            "empty",
            "expected a .npy file of token ids: the file is damaged or something",
        ),
        (
            "folder",
            "expected a .npy file of token ids: the file is damaged or something",
        ),
        (
            "objects",
            "expected a .npy file of token ids: the file is damaged or something",
        ),
        ("floats", "must be a one-dimensional array of integers, got float64 in 1 dim"),
        ("table", "must be a one-dimensional array of integers, got uint16 in 2 dime"),
    ],
)
def test_other_files_are_no_token_arrays(tmp_path, kind, message):
    file = write(tmp_path, kind)
    with pytest.raises(ValueError) as error:
        open_tokens(file, "make one")
    assert str(error.value).startswith(f"{file} ") and message in str(error.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("tokens", " cannot be read (File is not a zip file); expected a .npz file w"),
        ("one array", "\"There is no item named 'tokens.npy' in the archive\""),
        ("archive, cut", " cannot be read (File is not a zip file); expected a .npz f"),
        (
            "archive, altered",
            "expected a .npz file with the arrays tokens, starts: the file is damaged or something",
        ),
        (
            "text",
            "expected a .npz file with the arrays tokens, starts: the file is damaged or something",
        ),
        (
            "empty",
            "expected a .npz file with the arrays tokens, starts: the file is damaged or something",
        ),
        (
            "folder",
            "expected a .npz file with the arrays tokens, starts: the file is damaged or something",
        ),
        ("float archive", ": starts must be a one-dimensional array of integers, got"),
    ],
)
def test_other_files_are_no_archives(tmp_path, kind, message):
    file = write(tmp_path, kind)
    with pytest.raises(ValueError) as error:
        read_integer_arrays(file, NAMES, "make one")
    assert str(error.value).startswith(str(file)) and message in str(error.value)


def test_a_missing_file_is_an_error_with_a_remedy(tmp_path):
    file = tmp_path / "none"
    for read in (open_tokens, lambda *args: read_integer_arrays(args[0], [], args[1])):
        with pytest.raises(ValueError, match="none does not exist; make one"):
            read(file, "make one")
