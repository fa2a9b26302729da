#!/usr/bin/env bash
# A command on every worker of a Cloud TPU slice, in the tracked files of this checkout as
# they are now. The slice is a queued resource: it is used where it exists, else asked for
# and awaited; one that was preempted (SUSPENDED) or FAILED is asked for anew. So after a
# preemption the same line goes on. Shows what it would do; --go does it.
#   ./launch/tpu_pod.sh --name=N --zone=Z --accelerator=v5litepod-16 --runtime=V [--project=P]
#       [--spot] [--delete] [--go] -- COMMAND...       --delete: once the command has succeeded
#   ./launch/tpu_pod.sh --name=N --zone=Z [--project=P] --delete [--go]
# Each value can come from the environment instead: RELAY_NAME, RELAY_ZONE, ...
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=options.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/options.sh"
name="${RELAY_NAME:-}" zone="${RELAY_ZONE:-}" project="${RELAY_PROJECT:-}" spot='' delete=''
accelerator="${RELAY_ACCELERATOR:-}" runtime="${RELAY_RUNTIME:-}"
take 'name= zone= project= accelerator= runtime= spot delete' "$@"
need name zone
place=(--zone="$zone" ${project:+--project="$project"})
scratch="$(mktemp -d)" tree=HEAD there=''
trap '(($? == 0)) || [[ -z "$there" ]] || say "$name is still there, and costs"; rm -rf "$scratch"' EXIT
remove() { run gcloud compute tpus queued-resources delete "$name" "${place[@]}" --force --quiet; }
create() {
  run gcloud compute tpus queued-resources create "$name" "${place[@]}" --node-id="$name" \
    --accelerator-type="$accelerator" --runtime-version="$runtime" ${spot:+--spot}
}
state() { # of the queued resource; nothing where there is none
  gcloud compute tpus queued-resources describe "$name" "${place[@]}" \
    --format='value(state.state)' 2>"$scratch/error" ||
    grep -q NOT_FOUND "$scratch/error" || die "$(cat "$scratch/error")"
}
await() {
  local now asked=''
  while now="$(state)" || exit; [[ "$now" != ACTIVE ]]; do
    if [[ -n "$now" && "$now" != FAILED && "$now" != SUSPENDED ]]; then
      say "$name is $now"
      sleep "${RELAY_POLL_SECONDS:-30}"
    elif [[ -n "$asked" ]]; then
      die "$name is ${now:-gone}: gcloud compute tpus queued-resources describe $name says why"
    else
      [[ -z "$now" ]] || remove
      create && asked=yes
    fi
  done
}

if ((${#command[@]})) || [[ -z "$delete" ]]; then
  need accelerator runtime command
  if [[ -n "$go" ]]; then
    await; there=yes
    git -C "$root" diff --quiet HEAD || # a commit of HEAD with the changes, on no branch
      tree="$(git -C "$root" -c user.name=- -c user.email=- stash create)"
  else
    create # which --go does only where there is none
  fi
  run git -C "$root" archive --output="$scratch/relay_jax.tar.gz" "$tree"
  run gcloud compute tpus tpu-vm scp "$scratch/relay_jax.tar.gz" "$name:" "${place[@]}" --worker=all
  run gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker=all </dev/null \
    --command="s=\$(tar -xzOf relay_jax.tar.gz launch/tpu_worker.sh) && bash -c \"\$s\" - $(quote "${command[@]}")"
fi
[[ -z "$delete" ]] || remove
tell_of_dry_run
