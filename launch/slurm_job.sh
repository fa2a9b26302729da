#!/usr/bin/env bash
# What slurm.sh submits. Slurm starts it in the checkout, on the first node of the job.
#   slurm_job.sh COMMAND...
set -uo pipefail
if ((SLURM_NTASKS > 1)); then export RELAY_JAX_COORDINATOR=auto; fi
launch/run.sh cuda true || exit # before many processes would try at once

# A minute before the time is up Slurm warns this script (--signal), which warns the
# processes: they save and exit with 143. srun itself would kill them at a SIGTERM.
trap 'scancel --signal=TERM "$SLURM_JOB_ID"' TERM
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 --wait=120 \
  launch/run.sh cuda "$@" &
step=$! status=0
wait "$step" || status=$?
while kill -0 "$step" 2>/dev/null; do # the trap has interrupted the wait
  status=0
  wait "$step" || status=$?
done

# A job that its owner cancels is COMPLETING by now, and stays ended.
state="$(squeue --noheader --format=%T --jobs="$SLURM_JOB_ID")"
if ((status == 143)) && [[ "$state" == RUNNING ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$status"
