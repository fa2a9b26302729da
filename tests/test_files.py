"""JSON lines, also in a bucket."""

import fsspec
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
