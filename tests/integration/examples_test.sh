#!/usr/bin/env bash
# Every example prints what its comment promises.
set -euo pipefail
examples=$(cd "$(dirname "$0")/../../examples" && pwd)

expect() {
  local name=$1 want=$2 got
  got=$("$examples/$name/run.sh" 2>/dev/null)
  if [ "$got" != "$want" ]; then
    printf 'example %s printed:\n%s\ninstead of:\n%s\n' "$name" "$got" "$want" >&2
    exit 1
  fi
  echo "example $name: ok"
}

expect build 'primes up to 1000000: 78498'
expect git $'main: second, old: first\nsecond version'
expect data $'north 71.7\nsouth 34.0\nwest 109.0'
expect resume $'day 1: started\nday 1: left some work\nday 2: went on\ncache holds 0 files'
