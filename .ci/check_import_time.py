"""`import fastdl` may take at most 50 ms more than `import numpy`: the best of many new processes, taken in turns."""

import subprocess
import sys
import time


def seconds(statement: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - started


seconds("import fastdl")  # compiles the bytecode and warms the file cache
pairs = [(seconds("import fastdl"), seconds("import numpy")) for _ in range(20)]
extra = min(a for a, _ in pairs) - min(b for _, b in pairs)
print(f"import fastdl: {extra * 1000:.1f} ms beyond numpy's")
if extra > 0.050:
    sys.exit(f"import fastdl takes {extra * 1000:.1f} ms beyond numpy's import, the limit is 50 ms")
