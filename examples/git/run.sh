#!/usr/bin/env bash
# Checks a git repository out by branch and by commit. The repository is made here, and git is told to
# fetch it instead of the one on the network: the manifest is what you would write for a real one.
source "$(dirname "$0")/../common.sh"
git init -q -b main "$work/acme/widget.git"
cd "$work/acme/widget.git"
git config user.name example
git config user.email example@example.invalid
mkdir lib
echo 'first' > lib/version
git add -A
git commit -q -m 'first version'
first=$(git rev-parse HEAD)
echo 'second' > lib/version
git commit -q -a -m 'second version'
# What makes an old commit fetchable by its id, as large hosts do.
git config uploadpack.allowAnySHA1InWant true

cat > "$work/manifest.json" <<EOF
{
  "entries": {
    "widget": {"type": "git_repo", "repo": "acme/widget", "ref": "main"},
    "old": {"type": "git_repo", "repo": "acme/widget", "ref": "$first", "subpath": "lib"}
  },
  "environment": {"value": {
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "url.file://$work/.insteadOf",
    "GIT_CONFIG_VALUE_0": "https://github.com/"
  }}
}
EOF
"$troupe" run "$work/manifest.json" -- \
  sh -ec 'echo "main: $(cat widget/lib/version), old: $(cat old/version)"; git -C widget log --format=%s'
