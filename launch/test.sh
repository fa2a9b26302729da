#!/usr/bin/env bash
# The tests.
#   ./launch/test.sh [--slow] [arguments of pytest, paths relative to the repository]
# As many at once as there are cores, at most four; -n 0: one after the other.
# PYTHON=python3.12 ./launch/test.sh takes that Python; the default is python3.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
environment test

marks='not slow'
for argument; do
  shift
  if [[ "$argument" == --slow ]]; then marks=''; else set -- "$@" "$argument"; fi
done
cd "$root"
export PYTHONPATH="$root" PYTHONSAFEPATH=1
workers="$("$python" -c 'import os; print(min(os.cpu_count() or 1, 4))')"
exec "$python" -m pytest -m "$marks" -n "$workers" --dist worksteal "$@"
