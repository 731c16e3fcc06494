#!/usr/bin/env bash
# Builds a source tree in a session and runs the result.
source "$(dirname "$0")/../common.sh"
cd "$here"
"$troupe" run manifest.json -- \
  sh -ec 'cmake -S src -B out -G "Unix Makefiles" >/dev/null; make -s -C out >/dev/null; out/primes'
