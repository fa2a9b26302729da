#!/usr/bin/env bash
# The quickstart: the RELAY method on arithmetic, on two CPU cores in a quarter of an hour.
#   ./launch/local.sh [flags of experiments/quickstart.py]
#   ./launch/local.sh --config=experiments/configs/quickstart.py:lis --workdir=runs/lis
# PYTHON=python3.12 ./launch/local.sh takes that Python; the default is python3.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
environment run

# The caller's directory stays, so that a relative --workdir means what the caller meant,
# and is kept off Python's path, where its files could hide our modules.
export PYTHONPATH="$root" PYTHONSAFEPATH=1 JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
large_pages
exec "$python" -m experiments.quickstart "$@"
