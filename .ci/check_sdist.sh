#!/usr/bin/env bash
# Makes the source distribution in a directory and checks that it holds what is in the repository and no more.
#   .ci/check_sdist.sh directory      in an environment that has the packages of build-system.requires
# That it builds by itself is for the caller to try: directory/no_git has a git that fails, to come first on PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p "$1/no_git"
work=$(cd "$1" && pwd)

python -c "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])" "$work" > "$work/sdist.log" ||
  { cat "$work/sdist.log"; exit 1; }
archive=$(echo "$work"/fastdl-*.tar.gz)
size=$(stat -c %s "$archive")
echo "$(basename "$archive"): $size bytes"
[ "$size" -lt 2000000 ] || { echo "the source distribution is larger than 2 MB" >&2; exit 1; }
if git rev-parse > /dev/null 2>&1; then
  git ls-files | grep -vE '^(\.ci|bench/results)/' | sort > "$work/tracked"
  tar tzf "$archive" | cut -d/ -f2- | grep -vE '/$|^PKG-INFO$' | sort | diff "$work/tracked" - ||
    { echo "the source distribution (>) is not what git has (<)" >&2; exit 1; }
fi
printf '#!/bin/sh\necho "git was called" >&2\nexit 1\n' > "$work/no_git/git"
chmod +x "$work/no_git/git"
