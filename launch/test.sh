#!/usr/bin/env bash
# The tests.
#   ./launch/test.sh [--slow] [arguments of pytest, paths relative to the repository]
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
exec "$python" -m pytest -m "$marks" "$@"
