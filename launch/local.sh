#!/usr/bin/env bash
# Both papers on two CPU cores: RELAY's quickstart (arithmetic, about half an hour), then
# REST on a published model (SmolLM2 on HumanEval prompts, some minutes).
#   ./launch/local.sh [flags of experiments/quickstart.py]
#   ./launch/local.sh --only=relay [flags of experiments/quickstart.py]
#   ./launch/local.sh --only=rest [flags of experiments/rest_demo.py]
#   ./launch/local.sh --only=relay --config=experiments/configs/quickstart.py:lis --workdir=runs/lis
# REST works in the folder `rest` of --workdir. When interrupted, the same line resumes.
# PYTHON=python3.12 ./launch/local.sh takes that Python; the default is python3.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
only='' workdir='' help='' others=()
for argument; do
  case "$argument" in
    --only=relay | --only=rest) only="${argument#--only=}" ;;
    --only*) die "cannot use $argument: give --only=relay or --only=rest" ;;
    --workdir=?*) workdir="$argument" ;;
    --workdir | --workdir=) die 'cannot use --workdir alone: give --workdir=DIR' ;;
    --help | -help | --helpshort | -h) help=--help ;;
    *) others+=("$argument") ;;
  esac
done
kind=demo
[[ "$only" != relay && -z "$help" ]] || kind=run
environment "$kind"

# The caller's directory stays, so that a relative --workdir means what the caller meant,
# and is kept off Python's path, where its files could hide our modules.
export PYTHONPATH="$root" PYTHONSAFEPATH=1 JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
large_pages
[[ -z "$help" ]] || workdir='' others=("$help")
quickstart=("$python" -m experiments.quickstart ${workdir:+"$workdir"} ${others[@]+"${others[@]}"})
case "$only" in
  relay) exec "${quickstart[@]}" ;;
  '')
    "${quickstart[@]}"
    others=(${help:+"$help"}) # the rest were the quickstart's
    ;;
esac
exec "$python" -m experiments.rest_demo ${workdir:+"$workdir/rest"} ${others[@]+"${others[@]}"}
