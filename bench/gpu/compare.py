"""Stage: fastdl beside cuBLAS, cuDNN and flash attention, through whatever of PyTorch and CuPy is installed. Rows whose
kernels do not exist yet, and peers that are not there or cannot do a row, are reported as missing."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from rows import DTYPES, Row
from stage import Stage, brief, main
from timing import GpuTimer, HostTimer, measure, quartiles

FAMILIES = ("matmul", "conv", "attention", "rnn", "memory")
OURS = "fastdl"
_SECONDS, _ROUNDS = 0.5, 15  # of a row
_CHECKED = 1 << 21  # elements of either end of a result that are compared
_ON_CPU = 4e9  # operations up to which results without a peer are checked against fastdl's own on the CPU


def all_rows(small: bool) -> list[Row]:
    """The rows of every family, interleaved, so that time that runs out cuts a little of each."""
    lists = [importlib.import_module(f"rows_{name}").rows(small) for name in FAMILIES]
    ranked = [((i + 0.5) / len(rows), row) for rows in lists for i, row in enumerate(rows)]
    return [row for _, row in sorted(ranked, key=lambda pair: pair[0])]


class Machine:
    """The device, its arrays, its peers, its timer."""

    def __init__(self, stage: Stage):
        from fastdl.device import backend_of

        self.backend: Any = backend_of(stage.device)
        self.timer: Any = HostTimer() if stage.simulated else GpuTimer()
        self.peers: dict[str, Any] = {}
        self.missing: dict[str, str] = {}
        for name in ("torch", "cupy"):
            if stage.simulated:
                self.missing[name] = "no GPU"
                continue
            try:
                module = importlib.import_module(name)
                if name == "torch" and not module.cuda.is_available():
                    raise RuntimeError("sees no GPU")
                self.peers[name] = module
            except Exception as error:
                self.missing[name] = brief(error)

    def tensor(self, array: np.ndarray) -> Any:
        """A host array as PyTorch's on the GPU, with its strides."""
        torch = self.peers["torch"]
        order = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
        stored = np.ascontiguousarray(array.transpose(order))
        narrow = stored.dtype == DTYPES["bfloat16"]
        tensor = torch.from_numpy(stored.view(np.int16) if narrow else stored).cuda()
        tensor = tensor.view(torch.bfloat16) if narrow else tensor
        return tensor.permute([order.index(axis) for axis in range(array.ndim)])

    def release(self) -> None:
        """What libraries keep for later, back to the GPU."""
        if "torch" in self.peers:
            self.peers["torch"].cuda.empty_cache()
        if "cupy" in self.peers:
            self.peers["cupy"].get_default_memory_pool().free_all_blocks()

    def ends(self, output: Any) -> list[np.ndarray]:
        """The beginning and the end of an output, all of it if it is small."""
        shape = output.shape
        rows = len(output) if shape else 0
        kept = _CHECKED * rows // max(1, math.prod(shape)) + 1
        return [self.host(o) for o in ([output] if rows <= 2 * kept else [output[:kept], output[-kept:]])]

    def host(self, output: Any) -> np.ndarray:
        """Any output in float64 on the CPU."""
        if hasattr(output, "detach"):
            return output.detach().double().cpu().numpy()
        if isinstance(output, np.ndarray) and type(output) is np.ndarray:
            return output.astype(np.float64)
        return self.backend.to_numpy(output).astype(np.float64)


def outputs(result: Any) -> list[Any]:
    """What a call gave back, without what it left out."""
    parts = result if isinstance(result, Sequence) and not hasattr(result, "shape") else [result]
    return [p for p in parts if p is not None]


def worst(actual: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """The largest error, relative to the largest number of each output; infinite for NaN."""
    error = 0.0
    for a, e in zip(actual, expected):
        scale = float(np.abs(e).max(initial=0)) or 1.0
        largest = float(np.abs(a.reshape(e.shape) - e).max(initial=0)) / scale
        error = max(error, largest if largest == largest else float("inf"))
    return error


def run_row(row: Row, machine: Machine) -> dict[str, Any]:
    """One row: built, checked, timed."""
    report: dict[str, Any] = {"key": row.key, "family": row.family, "shape": row.shape, "dtype": row.dtype,
                              "direction": row.direction, "precision": row.precision}  # fmt: skip
    absent = [name for name in row.kernels if not hasattr(machine.backend.kernels, name)]
    if absent:
        return {**report, "status": "missing", "reason": f"no CUDA kernel for {', '.join(absent)} yet"}
    from fastdl import float32_precision

    arrays = row.inputs(np.random.default_rng(0))
    with float32_precision(row.precision or "highest"):
        calls = {OURS: row.ours(*[machine.backend.from_numpy(a) for a in arrays])}
        got = [part for o in outputs(calls[OURS]()) for part in machine.ends(o)]
        absent_peers: dict[str, str] = {}
        for name, build in (("torch", row.torch), ("cupy", row.cupy)):
            if build is None:
                absent_peers[name] = "not asked"
            elif name in machine.missing:
                absent_peers[name] = machine.missing[name]
            else:
                move = machine.tensor if name == "torch" else machine.backend.from_numpy
                try:
                    variants = build(machine.peers[name], *[move(a) for a in arrays])
                    calls.update({f"{name} {variant}".strip(): call for variant, call in variants.items()})
                except Exception as error:
                    absent_peers[name] = brief(error)
        report["missing_peers"] = absent_peers
        report["error"] = _error(row, machine, calls, got, arrays)
        report["limit"] = row.limit
        for call in list(calls.values()) * 2:  # whoever tunes, tunes now
            call()
        machine.timer.wait()
        samples = measure(machine.timer, calls, _SECONDS, _ROUNDS)
    report["milliseconds"] = {name: quartiles(values) for name, values in samples.items()}
    report.update(_rates(row, report["milliseconds"]))
    wrong = report["error"] is not None and not report["error"] <= row.limit
    return {**report, "status": "wrong" if wrong else "ok", "target": row.target}


def _error(
    row: Row, machine: Machine, calls: dict[str, Any], got: list[np.ndarray], arrays: Sequence[np.ndarray]
) -> Any:
    """Against a peer's results, or for want of one against fastdl's on the CPU where that is quick; else None."""
    if not got:
        return None
    for name, call in calls.items():
        if name != OURS:
            return worst(got, [part for o in outputs(call()) for part in machine.ends(o)])
    if row.flops > _ON_CPU:
        return None
    return worst(got, [part for o in outputs(row.ours(*arrays)()) for part in machine.ends(o)])


def _rates(row: Row, times: dict[str, list[float]]) -> dict[str, Any]:
    """What the medians mean."""
    ours = times[OURS][1]
    peers = {name: quarts[1] for name, quarts in times.items() if name != OURS}
    found: dict[str, Any] = {"gflops": row.flops / ours / 1e6, "gigabytes_per_second": row.bytes / ours / 1e6}
    if peers:
        best = min(peers, key=lambda name: peers[name])
        found.update(best_peer=best, ratio=peers[best] / ours)
    return found


def body(stage: Stage) -> None:
    machine = Machine(stage)
    stage.found["peers"] = {**dict.fromkeys(machine.peers, "used"), **machine.missing}
    reports: list[dict[str, Any]] = []
    stage.found["rows"] = reports
    rows = all_rows(stage.simulated)
    for row in rows:
        if stage.left < 4:
            reports.append(
                {"key": row.key, "family": row.family, "status": "not run", "reason": "no time was left"}
            )
            continue
        begin = time.monotonic()
        try:
            report = run_row(row, machine)
        except Exception as error:
            report = {"key": row.key, "family": row.family, "status": "failed", "reason": brief(error)}
        print(
            report["status"],
            row.key,
            report.get("reason", ""),
            f"{time.monotonic() - begin:.1f} s",
            flush=True,
        )
        reports.append(report)
        machine.release()
        if report["status"] in ("failed", "wrong"):
            stage.problem(f"{row.key}: {report['status']}: {report.get('reason', report.get('error'))}")
        stage.save()


if __name__ == "__main__":
    main(body)
