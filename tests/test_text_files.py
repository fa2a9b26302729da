"""What is text, where lines end, and JSON lines: tables, and files of a grammar."""

import json

import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from relay_jax import files, text_files
from relay_jax.data import corpora

CASES = settings(max_examples=100, deadline=None, derandomize=True)
BOM = b"\xef\xbb\xbf"


def read(tmp_path, content):
    file = epath.Path(tmp_path / "text.txt")
    file.write_bytes(content)
    return text_files.read_text(file)


@pytest.mark.parametrize(
    ("content", "expected", "where"),
    [
        (b"plain \xc3\xa9", "plain é", ""),
        (BOM + b"a" + BOM, "a\ufeff", ""),  # a mark at the start alone
        (b"\xef\xbf\xbd", "\ufffd", ""),  # the file has U+FFFD itself
        (b"one\ntwo \xff\xfe", "one\ntwo \ufffd\ufffd", "in line 2"),
        (b"caf\xe9 latin-1", "caf\ufffd latin-1", "in line 1"),
        (b"cut \xf0\x9f\x98", "cut \ufffd", "in line 1"),
        (b"\xed\xa0\xbd", "\ufffd\ufffd\ufffd", "in line 1"),  # half a pair
        (b"overlong \xc0\x80", "overlong \ufffd\ufffd", "in line 1"),
        (BOM + b"\n\n\x80", "\n\n\ufffd", "in line 3"),
        ("\ufeffaé\n😀".encode("utf-16-le"), "aé\n😀", ""),
        ("\ufeffaé\n😀".encode("utf-16-be"), "aé\n😀", ""),
        ("\ufeffa".encode("utf-16-le") + b"\x3d\xd8", "a\ufffd", "in UTF-16"),
        ("\ufeffaé\n😀".encode("utf-32-le"), "aé\n😀", ""),
        ("\ufeffaé\n😀".encode("utf-32-be"), "aé\n😀", ""),
        ("\ufeffa".encode("utf-32-le") + b"\x3d", "a\ufffd", "in UTF-32"),
        (b"", "", ""),
    ],
)
def test_what_is_no_text_is_replaced_and_its_place_named(
    tmp_path, caplog, content, expected, where
):
    assert read(tmp_path, content) == expected
    assert len(caplog.records) == bool(where)
    if where:
        assert (
            "text.txt: char" in caplog.text and f"first of them {where}" in caplog.text
        )


HALVES = st.text(
    st.one_of(st.characters(), st.integers(0xD800, 0xDFFF).map(chr)), max_size=8
)


def joined(text):
    """The oracle of `clean`: reads character by character."""
    result, position = "", 0
    while position < len(text):
        one, two = ord(text[position]), ord((text[position + 1 :] or "x")[0])
        is_pair = 0xD800 <= one < 0xDC00 <= two < 0xE000
        value = 0x10000 + (one - 0xD800) * 0x400 + two - 0xDC00 if is_pair else one
        result += "\ufffd" if 0xD800 <= value < 0xE000 else chr(value)
        position += 1 + is_pair
    return result


@CASES
@given(HALVES)
def test_halves_of_surrogate_pairs_become_one_character(text):
    repairs = []
    assert text_files.clean([{"a": text}, 1, None], repairs, "here") == [
        {"a": joined(text)},
        1,
        None,
    ]
    num_replaced = joined(text).count("\ufffd") - text.count("\ufffd")
    assert repairs == ["here"] * (num_replaced > 0)


NO_ENDS = ("\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\r")


@pytest.mark.parametrize("inside", NO_ENDS, ids=ascii)
def test_a_line_ends_at_a_newline_and_nothing_else(tmp_path, inside):
    text = f"a{inside}b"
    for end in ("\n", "\r\n"):
        expected = [text, "", "c"]
        assert text_files.split_lines(end.join(expected)) == expected
        assert text_files.split_lines(end.join([*expected, ""])) == expected
        file = epath.Path(tmp_path / "lines.jsonl")
        file.write_bytes(end.join([f'{{"a": "{text}"}}'] * 2).encode())
        if inside >= " ":  # JSON has no control characters in its strings
            assert list(files.read_lines(file)) == [{"a": text}] * 2
            assert list(corpora.read_json_lines([file], "a")) == [text] * 2
    assert text_files.split_lines("") == []


VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), HALVES),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(HALVES, inner, max_size=3)
    ),
    max_leaves=5,
)


@CASES
@given(
    st.lists(
        st.fixed_dictionaries({"text": HALVES}, optional={"more": VALUES}), max_size=4
    ),
    *(st.sampled_from(["\n", "\r\n", "\n\n \n"]), st.booleans(), st.booleans()),
)
def test_json_lines_are_read_as_they_were_written(
    tmp_path_factory, records, end, has_mark, is_ascii
):
    lines = [json.dumps(record, ensure_ascii=is_ascii) for record in records]
    text = "".join(line + end for line in lines)
    content = text.encode(errors="surrogatepass")
    file = epath.Path(tmp_path_factory.getbasetemp() / "random.jsonl")
    file.write_bytes(BOM * has_mark + content)
    read = [record for _, record in corpora.read_json_objects(file)]
    assert len(read) == len(records)
    if is_ascii:  # as bytes, each half is three that are not UTF-8
        expected = [joined(record["text"]) for record in records]
        assert list(corpora.read_json_lines([file], "text")) == expected
        assert [record["text"] for record in files.read_lines(file)] == expected
    for record in read:
        json.dumps(record, ensure_ascii=False).encode()  # all of it is text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"[1]", "not a JSON object ('[1]')"),
        (b'{"a": 1', "not JSON (Expecting ',' delimiter)"),
        (b"{'a': 1}", "not JSON (Expecting property name"),
        (b"[" * 100_000, "not JSON (nested too deeply)"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON (Exceeds the limit"),
        (b"\xff", "not JSON (Expecting value)"),
        (b'{"a": "b"} {', "not JSON (Extra data)"),
        (b'{"a": "\x0c"}', "not JSON (Invalid control character at)"),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path, line, message):
    file = epath.Path(tmp_path / "lines.jsonl")
    file.write_bytes(b'{"a": "b"}\n\n' + line + b'\n{"a": "b"}\n')
    for read in (files.read_lines, corpora.read_json_objects):
        with pytest.raises(ValueError) as error:
            list(read(file))
        assert f"lines.jsonl, line 3: {message}" in str(error.value)


def test_a_record_that_a_crash_cut_off_is_left_out_and_said(tmp_path, caplog):
    file = tmp_path / "records.jsonl"
    file.write_bytes(b'{"a": 1}\n{"a')
    assert list(files.read_lines(file)) == [{"a": 1}]
    assert "records.jsonl: the last line is cut off and left out" in caplog.text


def test_settings_files_may_begin_with_a_byte_order_mark(tmp_path):
    file = tmp_path / "config.json"
    file.write_bytes(BOM + b'{"a": 1}')
    assert files.read_json(file) == {"a": 1}
    for wrong in (b'{"a": "\xff"}', b"[" * 100_000):
        file.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"config.json is damaged: "):
            files.read_json(file)
