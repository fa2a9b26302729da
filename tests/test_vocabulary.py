"""Identifiers use the terms of the field: a list of banned names, and what to use.

A name is banned wherever it is an identifier: variable, function, class, argument,
attribute or field. A banned word in lower case is banned in all cases and with underscores
around it (`_tell`, `PEER`), and the words of `DIALECT` also as parts of other names.
Ordinary English words with a second, natural use are not listed (`order`, `parts`,
`choose`, `keep`, `context`, `memory`).
"""

import ast
import io
import json
import pathlib
import re
import tokenize

import pytest

from relay_jax import aliases

ROOT = pathlib.Path(__file__).parents[1]
BANNED = {
    # drafting
    "recycle": "token_recycling",
    "guess": "looped",
    "foretell": "draft_paths, looped_drafter",
    "followers": "adjacency table",
    "learn": "update",
    "Rows": "DraftSequences",
    "fading": "depth_decay",
    "fades": "decays",
    "narrow": "pack_uint16",
    "Verdict": "Verification",
    "Choice": "TargetTokens",
    "Fit": "TunedDraft",
    "AUTO": "AUTOTUNE",
    # datastore
    "seal": "checksum",
    "seals": "checksums",
    "Seal": "Checksum",
    "Words": "VocabInfo",
    "Built": "ShardInfo",
    "LiveIndex": "IndexWithRecent",
    "LIES_ON": "AXIS_RULES",
    "place_beside": "shard_like",
    # models and training
    "Codebook": "Embedding",
    "Memory": "KVContext",
    "Workspace": "Scratchpad",
    "workspace": "scratchpad",
    "KEPT": "REMAT_POLICY",
    "NEVER": "MASK_VALUE, MISSING_NODE",
    "Spoken": "LoopedOutput",
    "Speech": "Predictions",
    "SPEAKERS": "PREDICTORS",
    "_hears": "uses_feedback",
    "says_rounds": "supervises_rounds",
    "loop_input": "input_injection",
    "Teacher": "TeacherForcing",
    "most_rounds": "max_rounds",
    "drawn_rounds": "sampled_rounds",
    "max_shift": "max_value_offset",
    "gap_share": "value_gap_prob",
    "Shift": "ValueOffset",
    "num_words": "vocab_size",
    "tied_words": "tie_embeddings",
    "num_groups": "num_kv_heads",
    "head_size": "head_dim",
    # data and experiments
    "lean": "right_heavy",
    "grown": "generation_order",
    "Held": "InMemorySource",
    "Recorded": "TfdsSource",
    "ragged": "serialization",
    "shipped": "export",
    "trial": "qa_benchmark",
    "peer": "torch_baseline, baseline",
    "far": "length_extrapolation, distant",
    "fewer": "allow_fewer",
    # words that name no type, or have many meanings
    "least": "min, minimum",
    "most": "max, maximum",
    "told": "name what it is",
    "tell": "report, print, describe",
    "tells": "reports, describes",
    "held": "name what it is",
    "hear": "read",
    "hears": "reads",
    "say": "predict, generate",
    "says": "predicts",
    "said": "predicted, generated",
    "speak": "generate",
    "speaks": "generates",
    "spoken": "output, predictions",
    "written": "name what it is: chains, generated",
    "about": "metadata, setting, description",
    "own": "name what it is",
    "given": "name what it is: constants, examples",
    "made": "name what it is",
    "kept": "name what it is: accepted, selected",
    "place": "position, device, entry, path",
    "places": "positions, devices, entries, paths",
    "word": "token, symbol",
    "words": "tokens, vocabulary, tokenizer",
}
# Banned as parts of names too, unless the name is another library's or a test's sentence.
DIALECT = {
    "foretell",
    "hears",
    "least",
    "most",
    "said",
    "seal",
    "spoken",
    "tell",
    "told",
}
FOREIGN = {"most_common", "given"}  # collections.Counter, hypothesis
# Old names that have another meaning as strings: `EvaluationConfig.context`.
OTHER_MEANINGS = {"context"}
# The only file that knows names of earlier versions, and this one, which lists them.
EXEMPT = {"relay_jax/aliases.py", "tests/test_vocabulary.py"}
FOLDERS = ("relay_jax", "experiments", "tests")


def python_sources():
    """(path, source) of every module and of every notebook's code."""
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            path = str(file.relative_to(ROOT))
            if path not in EXEMPT:
                yield path, file.read_text()
    for file in sorted((ROOT / "launch" / "colab").glob("*.ipynb")):
        cells = json.loads(file.read_text())["cells"]
        for number, cell in enumerate(cells):
            if cell["cell_type"] == "code":
                source = re.sub(r"(?m)^\s*[%!].*", "pass", "".join(cell["source"]))
                yield f"{file.relative_to(ROOT)}, cell {number}", source


def banned_names(path, source, banned):
    """A line for each identifier that is or contains one of the banned words."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            for word in sorted(banned_words(token.string) & banned):
                yield f"{path}:{token.start[0]}: {token.string} -> {BANNED[word]}"


def banned_words(name):
    """The keys of `BANNED` that a name is or contains."""
    bare = name.strip("_")
    words = {name, bare, bare.lower()} - FOREIGN
    if not bare.startswith("test_") and name not in FOREIGN:
        words |= DIALECT.intersection(bare.lower().split("_"))
    return BANNED.keys() & words


def test_identifiers_are_the_fields_words():
    found = [
        line
        for path, source in python_sources()
        for line in banned_names(path, source, BANNED.keys())
    ]
    assert not found, "\n".join(found)


def test_a_banned_name_is_found_with_its_place_and_remedy():
    source = """def f(x):
        seal = "held"  # told
        return x.Verdict(_seal, so_far, PEER, is_told, max_shifts)
    """
    assert list(banned_names("a.py", source, BANNED.keys())) == [
        "a.py:2: seal -> checksum",
        "a.py:3: Verdict -> Verification",
        "a.py:3: _seal -> checksum",
        "a.py:3: PEER -> torch_baseline, baseline",
        "a.py:3: is_told -> name what it is",
    ]


@pytest.mark.parametrize("folder", ["relay_jax", "experiments"])
def test_old_names_of_settings_and_records_are_in_aliases_alone(folder):
    old = aliases.CONFIG_KEYS.keys() | aliases.DRAFTERS.keys()
    old = (old | aliases.RECORD_KEYS.keys()) - OTHER_MEANINGS
    found = [
        f"{path}:{node.lineno}: {node.value!r}"
        for path, source in python_sources()
        if path.startswith(folder)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and node.value in old
    ]
    assert not found, "\n".join(found)
