#!/usr/bin/env bash
# Holds the admin API against its own description: schemathesis (PyPI) makes requests from `openapi.json`, valid and not,
# and examines what is answered. Needs Python 3 with venv; the service runs as in the demo.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=target/schemathesis
version=4.32.5
if ! "$tools/bin/schemathesis" --version 2>/dev/null | grep -q "$version"; then
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check "schemathesis==$version"
fi

cargo build --locked --quiet
out=$(mktemp -d)
target/debug/flexportal-sync demo --keep >"$out/demo" 2>&1 &
demo=$!
trap 'kill -INT $demo 2>/dev/null; wait $demo 2>/dev/null; rm -rf "$out"' EXIT
for _ in $(seq 600); do
    grep -q 'with the token' "$out/demo" && break
    kill -0 $demo 2>/dev/null || { cat "$out/demo" >&2; exit 1; }
    sleep 0.1
done
console=$(sed -n 's/^ *the console at \([^,]*\), with the token \(.*\)$/\1 \2/p' "$out/demo")
read -r console token <<<"$console"

# What a schema cannot say, such as that either events are named or `all` is said, is refused with 400: hence no check
# that all is accepted which the schemas allow.
hold() {
    "$OLDPWD/$tools/bin/schemathesis" "$@" \
        --header "Authorization: Bearer $token" --checks all --exclude-checks positive_data_acceptance \
        --max-examples "${SCHEMATHESIS_EXAMPLES:-25}" --seed 1 --no-color
}
cd "$out"
hold run "${console%/console}/api/v1/openapi.json"

# Once more with an event and a customer that there are.
event=$(curl -sf -H "Authorization: Bearer $token" "${console%/console}/api/v1/failures?limit=1" |
    sed 's/.*"eventId":"\([^"]*\)".*"shopCustomerId":"\([^"]*\)".*/\1 \2/')
cat >known.toml <<TOML
[parameters]
"path.event" = "${event% *}"
"path.source" = "shopify"
"path.customer" = "${event#* }"
TOML
hold --config-file known.toml run "${console%/console}/api/v1/openapi.json" --include-path-regex '/(events|customers)/'
