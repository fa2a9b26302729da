"""JSON lines, also in a bucket."""

import fsspec
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

from relay_jax import files


class Bucket(MemoryFileSystem):
    """An object store: a file opened for appending starts empty."""

    store, pseudo_dirs, cachable = {}, [""], False

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("gs://"))

    def open(self, path, mode="rb", **rest):
        return super().open(path, mode.replace("a", "w"), **rest)


def test_lines_are_appended_in_a_bucket_as_on_a_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(fsspec, "filesystem", lambda name, **_: Bucket())
    for folder in ("gs://bucket/run", tmp_path):
        file = f"{folder}/metrics.jsonl"
        for step in (1, 2, 3):
            files.append_lines(file, [{"step": step}, {"step": step}])
        files.drop_lines_after(file, 2)
        files.append_lines(file, [{"step": 4}])
        assert [x["step"] for x in files.read_lines(file)] == [1, 1, 2, 2, 4]
    assert set(Bucket.store) == {"/bucket/run/metrics.jsonl"}


@pytest.mark.parametrize("folder", ["", "gs://bucket/other"])
@pytest.mark.parametrize(
    ("content", "expected", "is_named"),
    [
        ('{"a": 1}', [{"a": 1}], False),
        ('{"a": 1}\n', [{"a": 1}], False),
        ('{"a": 1}\n{"b": ', [{"a": 1}], True),
        ('{"b"', [], True),
        ("", [], False),
    ],
)
def test_lines_are_appended_after_a_whole_last_line(
    tmp_path, content, expected, is_named, caplog, monkeypatch, folder
):
    monkeypatch.setattr(fsspec, "filesystem", lambda name, **_: Bucket())
    file = epath.Path(folder or tmp_path) / "lines.jsonl"
    file.write_text(content)
    with caplog.at_level("WARNING", "absl"):
        files.append_lines(file, [{"c": 3}])
        files.append_lines(file, [{"d": 4}])
    assert list(files.read_lines(file)) == [*expected, {"c": 3}, {"d": 4}]
    assert ("the last line was cut off and is removed" in caplog.text) == is_named
