#!/bin/sh
# Makes .venv from a lock file, or mends it: scripts/environment.sh server|dev
# `bench` makes .venv-bench, which also holds the limiters that ours is measured against.
# A stamp written last says that all is done: an interrupted run is taken up again, a finished one costs nothing.
set -eu
cd "$(dirname "$0")/.."
profile=${1:-server}
venv=.venv
[ "$profile" != bench ] || venv=.venv-bench

fail() {
    echo "apishield: $1" >&2
    exit 1
}

fingerprint() { # of what the environment depends on, its own place included (scripts in it hold absolute paths)
    { pwd -P; cat pyproject.toml "requirements/$1.txt"; } | cksum
}

ready() {
    [ -x "$venv/bin/apishield" ] && [ -f "$venv/.ready-$1" ] && [ "$(cat "$venv/.ready-$1")" = "$(fingerprint "$1")" ]
}

find_python() {
    old=
    bare=
    for name in ${PYTHON:-} python3.13 python3.12 python3.11 python3.14 python3 python; do
        path=$(command -v "$name") || continue
        version=$("$path" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        if ! "$path" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            old="$path is Python $version"
        elif ! "$path" -c 'import ensurepip, venv' 2>/dev/null; then
            bare="$path (Python $version) has no venv module. Install it (Debian, Ubuntu: apt-get install python$version-venv)"
        else
            echo "$path"
            return
        fi
    done
    [ -z "$bare" ] || fail "$bare, or set PYTHON to another Python from 3.11 on."
    fail "Python 3.11 or newer is needed${old:+, and $old}. Install one (python.org, or your system's packages), or set PYTHON to it."
}

# The development environment holds all that the service needs.
if ready dev || ready "$profile"; then exit 0; fi

if ! "$venv/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$(find_python)
    if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv")" ]; then
        fail "$(pwd)/$venv is in the way and no virtual environment. Move it away."
    fi
    rm -rf "$venv"
    "$python" -m venv "$venv" || fail "$python could not make $(pwd)/$venv; see above."
fi
echo "apishield: installing what requirements/$profile.txt lists into $venv (once)" >&2
rm -f "$venv"/.ready-*
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }
pip install --require-hashes -r "requirements/$profile.txt" ||
    fail "the packages could not be installed; see above. Nothing is broken: run it again."
pip install --no-build-isolation --no-deps --editable . || fail "the package itself could not be installed; see above."
fingerprint "$profile" >"$venv/.ready-$profile"
