"""Imports go one way. Each part may import itself and the parts listed here."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
FILES = [
    path
    for folder in ("relay_jax", "experiments", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
]

# "": the package itself
BASE = {
    *("", "added_tokens", "aliases", "base", "beam", "chat_template", "config"),
    *("config_io", "files", "gguf_file", "gguf_header", "gguf_splits"),
    *("gguf_tokenizer", "hf_tokenizer", "jax_settings", "logits_config", "prompts"),
    *("sentencepiece_tokenizer", "template_sandbox", "text_files"),
    *("tokenizer_files", "tokenizers", "vocabulary"),
}
# Training evaluates while it runs, so evaluation is below it. Evaluation decodes, but
# knows no datastore: training never reaches retrieval.
MAY_IMPORT = {
    "base": BASE,
    "tasks": BASE,
    "data": BASE | {"tasks"},
    "models": BASE,
    "decoding": BASE | {"models"},
    "rest": BASE | {"models", "decoding"},
    "evaluation": BASE | {"tasks", "data", "models", "decoding"},
    "training": BASE | {"tasks", "data", "models", "evaluation"},
    "relay": BASE
    | {"tasks", "data", "models", "decoding", "rest", "evaluation", "training"},
    # The Python API, on top of everything.
    "datastores": BASE | {"data", "rest"},
    "generation": BASE | {"decoding", "rest", "datastores"},
    "solver": BASE | {"tasks", "data", "evaluation"},
    "pretrained": BASE | {"models", "training", "generation", "solver"},
}
UNSTABLE = ("flax.nnx", "jax._src", "jax.core", "jax.pmap", "tensorflow")
HEAVY = (
    "apache_beam",
    "tensorflow_datasets",
    "grain",
    "ml_collections",
)  # not on accelerator images
HEAVY_FILES = (
    "relay_jax/data/tfds_builder.py",
    "relay_jax/data/tfds_source.py",
)


def imports(tree, package, *, everywhere=True):
    """Dotted names that a module imports; `from a import b` gives `a.b`."""
    nodes = list(tree.body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{start}.{alias.name}" for alias in node.names)
        elif everywhere or not isinstance(
            node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
        ):
            nodes += ast.iter_child_nodes(node)


def attributes(tree):
    """Every `a.b.c` that is written out, imported or not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node)


def read(path):
    tree = ast.parse(path.read_text(), str(path))
    return tree, list(path.relative_to(ROOT).with_suffix("").parts[:-1])


def begins(name, starts):
    return any(name == start or name.startswith(f"{start}.") for start in starts)


def part_of(parts):
    """("relay_jax", "data", "alignment") -> "data"."""
    names = [path.stem for path in (ROOT / "relay_jax").iterdir()]
    return parts[1] if len(parts) > 1 and parts[1] in names else ""


def wrong_edges(path):
    tree, package = read(path)
    part = part_of(path.relative_to(ROOT).with_suffix("").parts)
    part = "" if part == "__init__" else part
    if part not in BASE and part not in MAY_IMPORT:
        yield f"{path.relative_to(ROOT)} is in no layer: add it to MAY_IMPORT"
        return
    allowed = MAY_IMPORT["base" if part in BASE else part] | {part}
    for name in imports(tree, package):
        parts = name.split(".")
        if parts[0] == "experiments":
            yield f"{path.relative_to(ROOT)} imports {name}"
        if parts[0] == "relay_jax" and part_of(parts) not in allowed:
            yield f"{path.relative_to(ROOT)} imports {name}"


def test_imports_go_one_way():
    edges = [
        e for f in FILES if f.is_relative_to(ROOT / "relay_jax") for e in wrong_edges(f)
    ]
    assert not edges


def test_tasks_and_rest_never_import_each_other():
    assert not {"rest"} & MAY_IMPORT["tasks"] and "tasks" not in MAY_IMPORT["rest"]


def test_there_are_no_import_cycles():
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(
            ".__init__"
        ): path
        for path in FILES
    }
    graph = {}
    for name, path in names.items():
        tree, package = read(path)
        found = set(imports(tree, package))
        found |= {target.rpartition(".")[0] for target in found}
        graph[name] = (found & set(names)) - {name}
    # `from relay_jax.data import align` names the package too, which is empty.
    done, path = set(), []

    def visit(name):
        assert name not in path, " imports ".join([*path[path.index(name) :], name])
        if name not in done:
            path.append(name)
            for target in sorted(graph[name]):
                visit(target)
            path.pop()
            done.add(name)

    for name in sorted(graph):
        visit(name)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unstable_is_used(path):
    tree, package = read(path)
    used = {*imports(tree, package), *attributes(tree)}
    assert not [name for name in used if begins(name, UNSTABLE)]


def test_the_package_imports_without_heavy_libraries():
    late = [*HEAVY, "relay_jax.data.tfds_builder", "relay_jax.data.tfds_source"]
    for path in FILES:
        where = str(path.relative_to(ROOT))
        if where.startswith("relay_jax") and where not in HEAVY_FILES:
            found = imports(*read(path), everywhere=False)
            heavy = [name for name in found if begins(name, late)]
            assert not heavy, f"{where} imports {heavy} at its top: move it to its use"


@pytest.mark.parametrize(
    "text, name",
    [
        ("from flax import nnx", "flax.nnx"),
        ("def f():\n    import jax.core as c", "jax.core"),
        ("from . import alignment", "relay_jax.data.alignment"),
        ("from ..tasks.lis import LIS", "relay_jax.tasks.lis.LIS"),
        ("try:\n    from jax._src import x\nexcept E:\n    pass", "jax._src.x"),
    ],
)
def test_every_form_of_import_is_read(text, name):
    assert list(imports(ast.parse(text), ["relay_jax", "data"])) == [name]
