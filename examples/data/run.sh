#!/usr/bin/env bash
# Analyses a data set: the data come from the host (read-only), the script is in the manifest.
source "$(dirname "$0")/../common.sh"
cd "$here"
"$troupe" run manifest.json -- sh -ec 'awk -f report.awk rain.csv | sort'
