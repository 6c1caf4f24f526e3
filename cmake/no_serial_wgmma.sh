#!/bin/sh
# no_serial_wgmma.sh COMPILER ARGUMENTS...: compiles; fails if ptxas says that it serialised wgmma (C7508 to C7519,
# among them C7510), or that it ignored setmaxnreg, either of which costs most of the speed.
said=$("$@" 2>&1)
status=$?
printf '%s\n' "$said" | grep -v '^$' >&2
if printf '%s\n' "$said" | grep -qE 'C75(0[89]|1[0-9])'; then
  echo "error: wgmma was serialised, or setmaxnreg ignored" >&2
  exit 1
fi
exit $status
