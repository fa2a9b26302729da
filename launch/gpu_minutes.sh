#!/usr/bin/env bash
# Figure 4 of the RELAY paper at the paper's size, in the minutes that a GPU is lent.
#   ./launch/gpu_minutes.sh MINUTES FOLDER [FLAGS of experiments/reproduce.py]
#   ./launch/run.sh cuda ./launch/gpu_minutes.sh 10 runs/paper_size     in our environment
# One curve after another is trained, measured and drawn, the most telling first. The same
# command goes on where it ended, on another machine too once FOLDER is copied there. It
# stops 45 seconds early, to save. --recipe=NAME takes another recipe.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=options.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/options.sh"
if [[ "${1:-}" == --help ]]; then sed -n '2,/^set /s/^# //p' "$0" && exit; fi
(($# > 1)) || die "give minutes and a folder: $0 10 runs/paper_size"
minutes="$1" folder="$2"
shift 2
whole minutes
mkdir -p -- "$folder" || die "the folder $folder cannot be made"

export PYTHONPATH="$root" PYTHONSAFEPATH=1
end=$((SECONDS + 60 * minutes - 45))
for curve in looped_aligned ar looped_vanilla ar_relay ar_self_oracle_5 ar_self_loop_5; do
  left=$((end - SECONDS)) status=0
  ((left > 0)) || break
  python -m experiments.reproduce --figure=4 --recipe=paper_size --jobs=1 "$@" \
    --workdir="$folder" --stages="multitask/$curve" \
    --minutes="$(printf '%d.%02d' $((left / 60)) $((left % 60 * 100 / 60)))" || status=$?
  ((status != 143)) || break # out of time
  ((status == 0)) || exit "$status"
done
say "results are in $folder; the same command goes on"
