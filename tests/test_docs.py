"""README.md and docs/: every table, Python example, path and link.

Python examples run in a temporary directory with a tiny model in place of FOLDER. The
commands are in `test_commands.py`.
"""

import dataclasses
import inspect
import pathlib
import re
import runpy

import pytest

import relay_jax
from docs import make_tables
from relay_jax import aliases
from relay_jax import config as configs
from relay_jax.decoding import tree_size
from relay_jax.rest import drafters
from tests import tiny_hf_model
from tests.pages import BLOCKS, FENCE, NAMES, ROOT, blocks

PATH = re.compile(r"`((?:relay_jax|experiments|tests|launch|docs)/[^`\s]*)`")
MODEL = dataclasses.replace(tiny_hf_model.MODEL, text_vocab_size=400)
EXAMPLES = [block for block in BLOCKS if block.language == "python"]


def test_every_block_has_a_language_that_is_tested():
    assert {block.language for block in BLOCKS} <= {"", "bash", "python", "text"}
    assert len(EXAMPLES) >= 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A directory in which the examples run."""
    path = tmp_path_factory.mktemp("examples")
    source = pathlib.Path(configs.__file__).read_text()
    (path / "src").mkdir()
    (path / "src" / "config.py").write_text(source)
    tiny_hf_model.write_model(path / "FOLDER", [source], MODEL)
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    (path / "FOLDER" / "chat_template.jinja").write_text(template)
    (path / "experiments").symlink_to(ROOT / "experiments")
    return path


@pytest.mark.parametrize("block", EXAMPLES, ids=lambda block: block.where)
def test_examples_run(block, folder, tmp_path, monkeypatch, capsys):
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(drafters, "DRAFTERS", dict(drafters.DRAFTERS))
    monkeypatch.setattr(tree_size, "SIZES", (0, 4))  # compiles less
    monkeypatch.setenv("RELAY_JAX_CACHE", str(tmp_path / "cache"))
    example = tmp_path / "example.py"
    example.write_text("\n" * (block.line - 1) + block.text)  # the page's line numbers
    runpy.run_path(str(example), run_name="__main__")
    if "(2+3)*4+1=" in block.text:
        assert "round 3: 10" in capsys.readouterr().out


def test_every_argument_of_the_api_is_described():
    page = (ROOT / "docs" / "api.md").read_text()
    functions = (
        relay_jax.load,
        relay_jax.build_datastore,
        relay_jax.LanguageModel.make_request,
        relay_jax.LanguageModel.chat,
        relay_jax.LanguageModel.encode_chat,
        relay_jax.LoopedSolver.solve,
    )
    for function in functions:
        for argument in set(inspect.signature(function).parameters) - {
            "self",
            "options",
        }:
            named = f"`{argument}`" in page or f"({argument}" in page
            assert named, f"docs/api.md: {argument} of {function.__name__} is missing"
    fields = {*relay_jax.GenerationOutput._fields, *relay_jax.Solution._fields}
    for name in fields - {"tokenizer", "stop", "prompt_token_ids", "prompt_seconds"}:
        assert f"`{name}`" in page, f"docs/api.md: {name} is missing"


def test_tables_match_the_records():
    for page in make_tables.pages():
        text = page.read_text()
        assert make_tables.fill(text) == text, (
            f"{page.name} has a table that is out of date: python -m docs.make_tables"
        )
    named = "".join(page.read_text() for page in make_tables.pages())
    for name in make_tables.TABLES:
        assert f"<!-- table: {name} -->" in named, f"no page shows the table {name}"


def test_a_table_follows_its_records(monkeypatch):
    before = make_tables.TABLES["quickstart"]()
    lines = [dict(line) for line in make_tables.read("quickstart")]
    for line in lines:
        if line.get("model") == "ar" and line["length"] == 8:
            line["value"] = 0.5
    monkeypatch.setattr(make_tables, "read", lambda name: lines)
    after = make_tables.TABLES["quickstart"]()
    changed = [a for a, b in zip(after.splitlines(), before.splitlines()) if a != b]
    assert len(changed) == 1 and "`ar`" in changed[0] and "0.500 (0.500)" in changed[0]
    with pytest.raises(ValueError, match="unknown table 'nope'; docs/make_tables.py"):
        make_tables.fill("<!-- table: nope -->\n<!-- end -->")


@pytest.mark.parametrize("name", NAMES)
def test_paths_and_links_exist(name):
    text = (ROOT / name).read_text()
    for path in PATH.findall(text):
        path = path.partition(":")[0]
        found = list(ROOT.glob(path.rstrip("/"))) or "NAME" in path
        assert found, f"{name}: there is no {path}"
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        page = (ROOT / name).parent / file if file else ROOT / name
        assert page.exists(), f"{name}: there is no {target}"
        heads = (
            re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE) if anchor else []
        )
        assert not anchor or anchor in map(slug, heads), f"{name}: no heading {target}"


def slug(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def test_the_code_map_is_right():
    """Every file of the README's tree is there, and defines the names beside it."""
    (tree,) = [b for b in blocks("README.md") if b.language == "text"]
    folder = ""
    for line in tree.text.splitlines():
        names, _, what = re.sub(r"^  (\S.*?)  +", r"\1\t", line).partition("\t")
        if not line.startswith(" "):
            folder, _, what = line.partition(" ")
            assert (ROOT / folder).is_dir(), folder
            names = ""
        start = (ROOT / folder / names).parent if names else ROOT / folder
        paths = [start / pathlib.Path(one).name for one in names.split(", ") if one]
        parts = re.findall(r"[\w/]+\.py", what)
        paths += [ROOT / folder / part for part in parts]
        for path in paths:
            assert path.exists(), f"README.md: there is no {path.relative_to(ROOT)}"
        sources = "".join(path.read_text() for path in paths if path.is_file())
        for identifier in re.findall(r"`([\w.]+)`", what):
            assert identifier in sources, f"README.md: no {identifier} in {names}"


def test_the_readme_is_short_and_its_first_screen_has_no_placeholder():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 200
    first = "\n".join(lines[:40])
    assert "./launch/local.sh" in first and "./launch/test.sh" in first
    assert first.count("![") == 1 and "OWNER" not in first


def test_new_names_in_the_changelog_exist():
    text = (ROOT / "CHANGELOG.md").read_text()
    for names in re.findall(r"^\| .* \| (`relay_jax\..*`) \|$", text, re.MULTILINE):
        package = ""
        for name in re.findall(r"`([\w.]+)`", names):
            name = name if name.startswith("relay_jax.") else f"{package}.{name}"
            package = name.rpartition(".")[0]
            file = ROOT / f"{name.replace('.', '/')}.py"
            assert file.exists(), f"CHANGELOG.md: there is no {name}"
    for old, new in (aliases.CONFIG_KEYS | aliases.DRAFTERS).items():
        for name in (old, new):
            assert re.search(rf"\b{name}\b", text), f"CHANGELOG.md lacks {name}"


def test_nothing_depends_on_files_outside_the_repository():
    for folder in ("relay_jax", "experiments", "launch", "docs"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".sh", ".md", ".ipynb"):
                assert "../shared" not in path.read_text(), path
