#!/usr/bin/env bash
# What tpu_pod.sh does on every worker: ends what an earlier call left running, puts the
# tree of ~/relay_jax.tar.gz in place of the earlier one, and runs the command there. A lost
# connection does not end the command; ~/relay_jax.log has what it says.
#   tpu_worker.sh COMMAND...
set -euo pipefail
mkdir -p ~/relay_jax
cd ~/relay_jax

exec 8>>.lock # held until the command ends
if ! flock -n 8; then
  echo 'an earlier command runs here: it is told to save and end (SIGTERM)' >&2
  kill "$(cat .pid)"
  flock -w 600 8 || { echo 'it has not ended in 10 minutes' >&2; exit 1; }
fi
echo $$ >.pid # each exec below keeps this number

if [[ -e .tree.tar.gz ]]; then # what the command itself wrote stays
  tar -tzf .tree.tar.gz --quoting-style=literal | grep -v '/$' | tr '\n' '\0' | xargs -0 rm -f
fi
mv ~/relay_jax.tar.gz .tree.tar.gz
tar -xzf .tree.tar.gz

# The usual images have Python 3.10, or no ensurepip: uv brings a Python from elsewhere.
if [[ -z "${PYTHON:-}" ]] &&
  ! python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  python3 -m pip install -qq --user uv
  python3 -m uv python install -q 3.12
  PYTHON="$(python3 -m uv python find 3.12)"
  export PYTHON
fi
launch/run.sh tpu true

# Worker 0 is the one to be heard. With -p tee writes on when nobody listens any more.
metadata=http://metadata.google.internal/computeMetadata/v1/instance/attributes
worker="$(curl -sSf -H 'Metadata-Flavor: Google' "$metadata/agent-worker-number")"
if [[ "$worker" == 0 ]]; then
  exec > >(exec 8>&-; exec tee -ap ~/relay_jax.log) 2>&1
else
  exec >>~/relay_jax.log 2>&1
fi
export RELAY_JAX_COORDINATOR=auto
exec launch/run.sh tpu "$@"
