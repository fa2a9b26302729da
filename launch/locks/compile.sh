#!/usr/bin/env bash
# Writes the locks beside it anew, with the newest versions that requirements.txt and the
# extras `test`, `oracle`, `demo` and `beam` of pyproject.toml allow. Needs uv (pip install uv) and a python3 >= 3.11.
# Before you commit what it wrote: PYTHON=python3.11 ./launch/test.sh --slow, then 3.12.
set -euo pipefail
cd "$(dirname -- "${BASH_SOURCE[0]}")/../.."
locks=launch/locks

compile() { # compile MINOR ARGUMENTS...: exact versions for Python 3.MINOR on any system
  local minor="$1" next="$(($1 + 1))"
  shift
  # uv resolves for every later Python at the same time: those lines go.
  uv pip compile --no-config --quiet --universal --python-version "3.$minor" \
    --no-header --no-annotate "$@" |
    sed -e "/; python_full_version >= '3.$next'/d" \
      -e "s/ ; python_full_version < '3.$next'//"
}

write() { # write NAME: standard input, under a line that says where it comes from
  { echo "# Written by $locks/compile.sh; not by hand."; cat; } >"$locks/$1.txt.new"
  mv "$locks/$1.txt.new" "$locks/$1.txt"
}

printf 'pip\nsetuptools\n' | compile 11 - | write build
compile 11 requirements.txt | write py311
compile 12 requirements.txt | write py312

extra() { # extra NAME: what an extra of pyproject.toml asks for
  python3 -c 'import sys, tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["optional-dependencies"][sys.argv[1]], sep="\n")' "$1"
}

# What the tests need besides, on every Python.
extra test | compile 11 requirements.txt - --constraint "$locks/py311.txt" |
  grep -vxFf "$locks/py311.txt" | write test
# And what some of them compare with. A CPU build of torch does without CUDA's packages;
# an index that has no such build adds them, some gigabytes, by itself.
extra oracle | compile 11 requirements.txt - --constraint "$locks/py311.txt" \
  --constraint "$locks/test.txt" |
  grep -vxFf "$locks/py311.txt" | grep -vxFf "$locks/test.txt" |
  grep -vE '^(cuda|nvidia|setuptools|triton)' | write oracle

# The files of a model and of problems: without what their packages need themselves.
extra demo | compile 11 - --no-deps | write demo

# Apache Beam holds back protobuf, pyarrow and beartype: an environment of its own, what
# tests there need included. One file for every Python, so its lines tell them apart.
{ extra beam; extra test | grep -vE '^(pyright|ruff)'; } |
  uv pip compile --no-config --quiet --universal --python-version 3.11 \
    --no-header --no-annotate requirements.txt - | write beam
