#!/bin/sh
# Builds the wheel with the limiter and the steps around it compiled to machine code (mypyc; needs a C compiler and Python's
# headers), and prints the directory in which it lies unpacked, to be tried with PYTHONPATH: scripts/wheel.sh
# Made once for each state of the sources. They are copied first: compiled files beside them would hide what is edited later.
set -eu
cd "$(dirname "$0")/.."
scripts/environment.sh dev
python=$(pwd)/.venv/bin/python
sources="src migrations pyproject.toml README.md LICENSE"

fail() {
    echo "apishield: $1" >&2
    exit 1
}

# shellcheck disable=SC2086  # a list of words
state=$(find $sources -type f ! -name '*.pyc' -exec cksum {} + | sort | cksum | cut -d ' ' -f 1)
unpacked=$(pwd)/build/compiled-$state
if [ ! -d "$unpacked" ]; then
    command -v "${CC:-cc}" >/dev/null || fail "there is no C compiler. Install one (Debian, Ubuntu: apt-get install gcc), or set CC."
    echo "apishield: compiling the limiter (once for each state of the sources, a minute or two)" >&2
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' INT TERM
    # shellcheck disable=SC2086
    cp -R $sources "$work"
    (cd "$work" && HATCH_BUILD_HOOK_ENABLE_MYPYC=true "$python" -m pip --disable-pip-version-check --quiet wheel \
        --no-build-isolation --no-deps --wheel-dir dist .) >"$work/log" 2>&1 || {
        cat "$work/log" >&2
        fail "the limiter could not be compiled; see above."
    }
    mkdir -p dist build
    rm -rf build/compiled-* dist/*.whl
    cp "$work"/dist/*.whl dist/
    "$python" -m zipfile -e "$work"/dist/*.whl "$work/unpacked"
    mv -T "$work/unpacked" "$unpacked" 2>/dev/null || [ -d "$unpacked" ] || fail "$unpacked could not be made."
fi
echo "$unpacked"
