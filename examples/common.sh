# Shared by the examples; sourced, not run.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
troupe=${TROUPE:-$here/../../build/release/cli/troupe}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
