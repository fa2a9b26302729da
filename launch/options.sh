# shellcheck shell=bash
# What tpu_pod.sh, gke.sh and slurm.sh share. Nothing here or there needs more than the
# bash 3.2 of a Mac.
# shellcheck disable=SC2034 # for those who source this
root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
command=() go=''

say() { printf 'relay_jax: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# take "NAME= SWITCH ..." ARGUMENTS...: --NAME=VALUE sets the variable NAME, --SWITCH sets
# SWITCH to yes, and what follows -- becomes the command. There always is a switch --go.
take() {
  local known=" ${1//$'\n'/ } go " option
  shift
  while (($#)) && [[ "$1" != -- ]]; do
    option="${1%%=*}" option="${option#--}"
    if [[ "$1" == --help ]]; then
      sed -n '2,/^set /s/^# //p' "$0"
      exit 0
    elif [[ "$1" == --*=* && "$known" == *" $option= "* ]]; then
      printf -v "$option" '%s' "${1#*=}"
    elif [[ "$1" == "--$option" && "$known" == *" $option "* ]]; then
      printf -v "$option" 'yes'
    else
      die "cannot use $1: $0 --help lists the options, and the command follows after --"
    fi
    shift
  done
  [[ $# == 0 ]] || shift
  command=("$@")
}

# need NAME...: each of these variables has a value.
need() {
  local wanted
  for wanted; do
    [[ -z "${!wanted:-}" ]] || continue
    [[ "$wanted" != command ]] || die 'the command is missing: give it after --, as in -- python -m ...'
    die "--$wanted is missing: give --$wanted=... or set RELAY_$(tr '[:lower:]' '[:upper:]' <<<"$wanted")"
  done
}

whole() { # whole NAME...: each of these variables is a whole number above zero
  local wanted
  for wanted; do
    [[ "${!wanted}" =~ ^[1-9][0-9]*$ ]] || die "--$wanted is a whole number above zero, not '${!wanted}'"
  done
}

quote() { printf '%q ' "$@"; } # words as bash reads them back, whatever they hold

run() { # shows a command and, where --go was given, runs it
  printf '%s\n' "$(quote "$@")"
  [[ -z "$go" ]] || "$@"
}

tell_of_dry_run() { [[ -n "$go" ]] || say 'nothing was run: add --go to do so'; }
