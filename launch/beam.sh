#!/usr/bin/env bash
# Apache Beam, which needs older versions of some packages: in .venv-beam, its own place.
#   ./launch/beam.sh test [arguments of pytest]
#   ./launch/beam.sh python -m experiments.make_data --runner=DirectRunner ...
# PYTHON=python3.12 ./launch/beam.sh takes that Python; the default is python3.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
what="${1-}"
[[ "$what" == test || "$what" == python ]] ||
  die "after $0 stands test, or python and its arguments; got '$what'"
shift
environment beam

export PYTHONPATH="$root" PYTHONSAFEPATH=1 JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
export PATH="$venv/bin:$PATH" # workers that Beam starts are called python
[[ "$what" == test ]] || exec "$python" "$@"
cd "$root"
exec "$python" -m pytest tests/beam tests/test_workers.py "$@"
