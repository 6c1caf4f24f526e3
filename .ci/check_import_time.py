"""`import fastdl` may take at most 50 ms more than `import numpy`: the least of many new processes' processor time.

Processor time and not the clock's: a machine busy with other work makes a process wait, which no import can help.
NumPy's OpenBLAS gets one thread: its others spin beside Python and would count every millisecond twice.
"""

import os
import resource
import subprocess
import sys


def seconds(statement: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", statement], check=True, env=os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


seconds("import fastdl")  # warms the file cache
pairs = [(seconds("import fastdl"), seconds("import numpy")) for _ in range(20)]
extra = min(a for a, _ in pairs) - min(b for _, b in pairs)
print(f"import fastdl: {extra * 1000:.1f} ms beyond numpy's")
if extra > 0.050:
    sys.exit(f"import fastdl takes {extra * 1000:.1f} ms beyond numpy's import, the limit is 50 ms")
