#!/usr/bin/env bash
# What the service costs the host it lives on: the program's size, its memory, and the requests of a
# quiet turn, over one quiet hour of the pretended reference home (sixty times as fast as real time).
# Ends standard output with one line of JSON.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
SPEED=60
QUIET_TURNS=120 # one hour of a turn each 30 s

cargo build --locked --release >&2
spot=$(pwd)/target/release/spot
if [ -n "${CARGO_TARGET_DIR:-}" ]; then spot=$CARGO_TARGET_DIR/release/spot; fi

folder=$(mktemp -d)
cluster= service=
finish() {
    if [ -n "$service" ]; then kill "$service" 2>/dev/null || true; fi
    if [ -n "$cluster" ]; then kill "$cluster" 2>/dev/null || true; fi
    wait || true
    rm -rf "$folder"
}
trap finish EXIT

"$spot" pretend --world tests/stage/shapes/reference.yaml --speed "$SPEED" \
    --listen 127.0.0.1:18106 --magic 127.0.0.1:19109 --requests "$folder/requests" \
    >"$folder/served" &
cluster=$!
for _ in $(seq 100); do
    if grep -q '^serving' "$folder/served"; then break; fi
    read -rt 0.1 <> <(:) || true
done

sed -n '/^# spot.yaml/,/^$/p' "$folder/served" >"$folder/spot.yaml"
start=$(sed -nE 's/.* at ([^ ,]+), .*/\1/p' "$folder/served" | head -n 1)
mkdir "$folder/policies"
cat >"$folder/policies/home.yaml" <<'POLICY'
timezone: Europe/Berlin
hosts:
  host1: { tier: low }
  host2: { tier: medium, mac: "a8:a1:59:00:00:02" }
  host3: { tier: high, mac: "a8:a1:59:00:00:03" }
POLICY
SPOT_TOKEN=00000000-0000-0000-0000-000000000000 \
    "$spot" run --config "$folder/spot.yaml" --clock "$start@$SPEED" >&2 &
service=$!

# Five minutes to settle, one hour to count, of the pretended time.
read -rt $((300 / SPEED)) <> <(:) || true
before=$(wc -l <"$folder/requests")
read -rt $((3600 / SPEED)) <> <(:) || true
after=$(wc -l <"$folder/requests")
memory() { sed -nE "s/^$1:[^0-9]*([0-9]+) kB/\1/p" "/proc/$service/status"; }

awk -v bytes="$(stat -Lc %s "$spot")" -v now="$(memory VmRSS)" -v most="$(memory VmHWM)" \
    -v threads="$(sed -nE 's/^Threads:[^0-9]*//p' "/proc/$service/status")" \
    -v requests=$((after - before)) -v turns="$QUIET_TURNS" 'BEGIN {
        printf "{\"bench\":\"footprint\",\"binary_bytes\":%d,\"memory_kib\":%d,", bytes, now
        printf "\"memory_most_kib\":%d,\"threads\":%d,", most, threads
        printf "\"requests_per_quiet_turn\":%.2f}\n", requests / turns
    }'
