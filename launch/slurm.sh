#!/usr/bin/env bash
# A command on GPUs under Slurm, one process a GPU, in this checkout, which lies on a disk
# that all nodes see. Shows what it would do; --go makes .venv here and submits.
#   ./launch/slurm.sh --gpus=8 [--nodes=1] [--cpus=8] [--name=relay] [--partition=P]
#       [--account=A] [--time=12:00:00] [--go] -- COMMAND...
# --gpus is the number of GPUs of a node, --cpus of cores a process. A job that is preempted,
# or saves and ends because its --time is up, is queued again and goes on where it was.
# Each value can come from the environment instead: RELAY_GPUS, RELAY_PARTITION, ...
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=options.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/options.sh"
gpus="${RELAY_GPUS:-}" nodes="${RELAY_NODES:-1}" cpus="${RELAY_CPUS:-8}" name="${RELAY_NAME:-relay}"
partition="${RELAY_PARTITION:-}" account="${RELAY_ACCOUNT:-}" time="${RELAY_TIME:-}"
take 'gpus= nodes= cpus= name= partition= account= time=' "$@"
need gpus command
whole gpus nodes cpus

# Here, because compute nodes often have no way out to a package index.
run "$root/launch/run.sh" cuda true
run sbatch --job-name="$name" --nodes="$nodes" --gpus-per-node="$gpus" \
  --ntasks-per-node="$gpus" --cpus-per-task="$cpus" ${partition:+--partition="$partition"} \
  ${account:+--account="$account"} ${time:+--time="$time"} --chdir="$root" \
  --requeue --signal=B:USR1@120 --open-mode=append --output="$name-%j.log" \
  "$root/launch/slurm_job.sh" "${command[@]}"
tell_of_dry_run
