#!/usr/bin/env bash
# One session saves its state and a snapshot; another, a new process, goes on where it was.
source "$(dirname "$0")/../common.sh"
cd "$here"
"$troupe" run manifest.json --snapshot-dir "$work/snapshots" --save "$work/state.json" -- \
  sh -ec 'echo "day 1: left some work" >> notes.txt; echo big > cache/thing'
"$troupe" run --resume "$work/state.json" -- \
  sh -ec 'echo "day 2: went on" >> notes.txt; cat notes.txt; echo "cache holds $(ls cache | wc -l) files"'
