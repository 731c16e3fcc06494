# Shared by the scripts in this folder; sourced, not run.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# A checkout elsewhere finds what this one compiled.
export CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=1

packages=(
  g++ make cmake ninja-build ccache pkg-config git ca-certificates curl zstd
  libcaf-dev libarchive-dev libcurl4-openssl-dev nlohmann-json3-dev libsimdjson-dev libzstd-dev
  libseccomp-dev libsqlite3-dev libssl-dev
  libboost-dev libboost-system-dev libboost-test-dev libexpected-dev libcli11-dev python3 procps
  nodejs npm
)

say() {
  printf '\033[1m== %s\033[0m\n' "$*" >&2
}

# Installs what is missing of the given packages (and only that: a second call takes no time).
install_packages() {
  local missing=()
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
      missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  say "installing ${missing[*]}"
  local sudo=()
  [ "$(id -u)" -eq 0 ] || sudo=(sudo)
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# build PRESET [TARGET...]
build() {
  local preset=$1
  shift
  cd "$root"
  if [ ! -f "build/$preset/build.ninja" ]; then
    say "configuring $preset"
    cmake --preset "$preset" >/dev/null
  fi
  say "building $preset"
  NINJA_STATUS='[%f/%t %es] ' cmake --build --preset "$preset" ${@:+--target "$@"}
}
