#!/bin/sh
# no_serial_wgmma.sh COMPILER ARGUMENTS...: compiles; fails if ptxas says that it serialised wgmma (C7510 and its
# like) or ignored setmaxnreg (C7507 and its like), either of which costs most of the speed.
said=$("$@" 2>&1)
status=$?
printf '%s\n' "$said" | grep -v '^$' >&2
if printf '%s\n' "$said" | grep -qE 'C75[0-9][0-9]|Potential Performance Loss'; then
  echo "error: wgmma was serialised, or setmaxnreg ignored" >&2
  exit 1
fi
exit $status
