"""`import fastdl` may take at most 50 ms more than `import numpy`: the best of several new processes each."""

import subprocess
import sys
import time


def best(statement: str, repeats: int = 15) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        times.append(time.perf_counter() - started)
    return min(times)


best("import fastdl", 2)  # compiles the bytecode and warms the file cache
extra = best("import fastdl") - best("import numpy")
print(f"import fastdl: {extra * 1000:.1f} ms beyond numpy's")
if extra > 0.050:
    sys.exit(f"import fastdl takes {extra * 1000:.1f} ms beyond numpy's import, the limit is 50 ms")
