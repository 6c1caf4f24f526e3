"""check_accuracy.py MINIMUM LOG...: the last test accuracy of all logs is the same and at least MINIMUM."""

import re
import sys
from pathlib import Path

found = [re.findall(r"test accuracy:?\s+([01]\.\d+)", Path(log).read_text()) for log in sys.argv[2:]]
accuracies = {float(values[-1]) if values else None for values in found}
if len(accuracies) != 1 or None in accuracies or min(accuracies) < float(sys.argv[1]):
    sys.exit(
        f"expected one test accuracy of at least {sys.argv[1]} in all of {sys.argv[2:]}, got {accuracies}"
    )
print(f"accuracy {accuracies.pop()} >= {sys.argv[1]}")
