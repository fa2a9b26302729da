#!/usr/bin/env bash
# What slurm.sh submits. Slurm starts it in the checkout, on the first node of the job.
#   slurm_job.sh COMMAND...
set -uo pipefail
if ((SLURM_NTASKS > 1)); then export RELAY_JAX_COORDINATOR=auto; fi
launch/run.sh cuda true || exit # before many processes would try at once

# A training saves and exits with 143 at its first SIGTERM, and dies at a second one. When
# Slurm preempts or cancels, it sends one to the processes itself. When the time is nearly
# up it warns this script instead (--signal of slurm.sh), which passes it on.
trap '' TERM
trap 'scancel --signal=TERM "$SLURM_JOB_ID"' USR1 # to srun it would mean: kill
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 --wait=120 \
  launch/run.sh cuda "$@" &
step=$! status=0
wait "$step" || status=$?
while kill -0 "$step" 2>/dev/null; do # it was the wait that USR1 ended
  status=0
  wait "$step" || status=$?
done

# A job that its owner has cancelled is COMPLETING by now, and stays ended.
state="$(squeue --noheader --format=%T --jobs="$SLURM_JOB_ID")"
if ((status == 143)) && [[ "$state" == RUNNING ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
