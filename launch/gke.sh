#!/usr/bin/env bash
# A command in every pod of a JobSet on GKE, in an image made by launch/Dockerfile.
#   ./launch/gke.sh --name=N --image=I --accelerator=tpu-v5-lite-podslice --topology=4x4
#       --per_node=4 [--count=SLICES] [OPTIONS] -- COMMAND...
#   ./launch/gke.sh --name=N --image=I --accelerator=nvidia-h100-80gb --per_node=8
#       [--count=NODES] [OPTIONS] -- COMMAND...
#   ./launch/gke.sh --name=N --delete [OPTIONS]      ends the JobSet, whose pods save first
#   OPTIONS: [--spot] [--restarts=10] [--service_account=S] [--context=C] [--namespace=S] [--go]
# With --topology they are TPUs. --per_node: chips or GPUs of a node. When a pod fails or is
# preempted all start again, --restarts times at most. Shows what it would do; --go does it.
# Each value can come from the environment instead: RELAY_NAME, RELAY_IMAGE, ...
set -euo pipefail
here="$(dirname -- "${BASH_SOURCE[0]}")"
# shellcheck source-path=SCRIPTDIR source=options.sh
source "$here/options.sh"
# shellcheck source-path=SCRIPTDIR source=jobset.sh
source "$here/jobset.sh"
name="${RELAY_NAME:-}" image="${RELAY_IMAGE:-}" accelerator="${RELAY_ACCELERATOR:-}"
topology="${RELAY_TOPOLOGY:-}" per_node="${RELAY_PER_NODE:-}" count="${RELAY_COUNT:-1}"
restarts="${RELAY_RESTARTS:-10}" service_account="${RELAY_SERVICE_ACCOUNT:-default}"
context="${RELAY_CONTEXT:-}" namespace="${RELAY_NAMESPACE:-}" spot='' delete=''
take 'name= image= accelerator= topology= per_node= count= restarts= service_account=
  context= namespace= spot delete' "$@"
need name
kubectl=(kubectl ${context:+--context="$context"} ${namespace:+--namespace="$namespace"})
if [[ -n "$delete" ]]; then
  run "${kubectl[@]}" delete jobset "$name"
  tell_of_dry_run
  exit
fi

need image accelerator per_node command
whole per_node count restarts
if [[ -n "$topology" ]]; then # GKE tells each pod of the others, in variables that JAX reads
  [[ "$topology" =~ ^[1-9][0-9]*(x[1-9][0-9]*)+$ ]] || die "--topology is like 4x4, not $topology"
  chips="$((${topology//x/*}))"
  ((chips % per_node == 0)) || die "$topology has $chips chips, no multiple of --per_node=$per_node"
  slices="$count" nodes="$((chips / per_node))" resource=google.com/tpu
  selector="gke-tpu-accelerator: $accelerator, cloud.google.com/gke-tpu-topology: $topology"
  script="export RELAY_JAX_COORDINATOR=auto; exec launch/run.sh tpu $(quote "${command[@]}")"
else
  slices=1 nodes="$count" resource=nvidia.com/gpu selector="gke-accelerator: $accelerator"
  script="exec launch/run.sh cuda $(quote "${command[@]}")"
  ((nodes == 1)) || script+="--coordinator=$name-workers-0-0.$name:8476 --num_processes=$nodes"
  # shellcheck disable=SC2016 # a variable of the pod
  ((nodes == 1)) || script+=' --process_id="$JOB_COMPLETION_INDEX"'
fi
manifest="$(jobset)"
printf '%s\n' "$manifest"
if [[ -n "$go" ]] && "${kubectl[@]}" get jobset "$name" >/dev/null 2>&1; then
  die "there is a JobSet $name: end it with $0 --name=$name --delete --go, or give another --name"
fi
run "${kubectl[@]}" apply --filename=- <<<"$manifest"
[[ -z "$go" ]] || say "to follow the first pod: ${kubectl[*]} logs --follow job/$name-workers-0"
tell_of_dry_run
