#!/bin/sh
# Writes the lock files: every package the service and its development need, for all platforms, with hashes.
# No place to download from is written into them: that is the machine's own setting.
set -eu
cd "$(dirname "$0")/.."
for profile in server dev bench; do
    case $profile in
    bench) extra=server inputs=requirements/bench.in ;; # the service, and whom it is measured against
    *) extra=$profile inputs= ;;
    esac
    # shellcheck disable=SC2086  # no inputs are no argument
    printf 'hatchling\neditables\n' | # what builds the package: then installing it downloads nothing unlocked
        .venv/bin/uv pip compile pyproject.toml $inputs - --extra "$extra" --output-file "requirements/$profile.txt" \
            --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-emit-find-links \
            --quiet "$@"
done
