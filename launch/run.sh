#!/usr/bin/env bash
# A command in the environment that this makes first, where it is missing or out of date.
#   ./launch/run.sh cpu|cuda|tpu COMMAND...
#   ./launch/run.sh cuda python -m experiments.train --config=... --workdir=...
# PYTHON=python3.12 ./launch/run.sh ... takes that Python; the default is python3.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
(($# > 1)) || die "give a kind of machine and a command: $0 cpu|cuda|tpu COMMAND..."
case "$1" in
  cpu) environment run ;;
  cuda | tpu) environment "$1" ;;
  *) die "there is no kind of machine $1; give cpu, cuda or tpu" ;;
esac
shift

# As in local.sh, the caller's directory stays and is kept off Python's path.
export PYTHONPATH="$root" PYTHONSAFEPATH=1 PATH="$venv/bin:$PATH"
large_pages
exec "$@"
