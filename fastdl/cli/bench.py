"""``fastdl bench``: speed beside peers and ceilings."""

from __future__ import annotations

import argparse
import os
import re
from typing import Any

_DESCRIPTION = """Measures kernels beside PyTorch, NumPy, jax, onnxruntime and CuPy (those that are installed) and
beside the machine's measured ceilings, all in one process, interleaved. Every result is checked against float64
first; the exit status is 1 if one is wrong or, with --fail-above, slower than in the baseline."""

_PEERS = ("torch", "numpy", "jax", "onnxruntime", "cupy")
_ALL_PEERS = (*_PEERS, "one-thread")


def _names(text: str) -> list[str]:
    return [part for part in text.replace(" ", ",").split(",") if part]


def _percent(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%", text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"expected a percentage such as 5%, got {text!r}")
    return float(match[1]) / 100


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text!r}")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


def add(commands: Any) -> None:
    """Adds the subcommand to the parser."""
    parser = commands.add_parser(
        "bench", help="speed of the kernels beside peers and ceilings", description=_DESCRIPTION
    )
    parser.add_argument(
        "family",
        nargs="*",
        default=["all"],
        help="matmul, conv, rnn, attention, elementwise, train or all (the default); or: compare OLD.json NEW.json, "
        "report RUN.json --html FILE",
    )
    parser.add_argument(
        "--suite",
        type=_names,
        default=["quick"],
        metavar="NAMES",
        help="which shapes: quick (the default), deepbench, resnet50, transformer, rnn, memory-bound, train, targets, "
        "all, ...; --list shows the rows",
    )
    parser.add_argument(
        "--dtype",
        type=_names,
        default=["float32"],
        metavar="NAMES",
        help="float32 (the default), bfloat16, float64, or several with commas",
    )
    parser.add_argument("--direction", choices=("forward", "backward", "both"), default="both")
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="NAME",
        help="cpu (the default), cuda, or cuda-sim, the host executor of the CUDA kernels",
    )
    parser.add_argument("--threads", type=_count, metavar="N", help="of every library (default: fastdl's)")
    parser.add_argument(
        "--compare",
        type=_names,
        metavar="NAMES",
        help=f"{', '.join(_PEERS)} (the default: those that compute on the device), one-thread (fastdl itself on one "
        "thread; the default of the suite scaling), or none",
    )
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="WORDS",
        help="only rows whose name contains all of these words; may be given again",
    )
    parser.add_argument(
        "--sample", type=_count, metavar="N", help="at most N rows of each group, spread over it"
    )
    parser.add_argument(
        "--time-budget",
        type=_positive,
        metavar="SECONDS",
        help="spread the measuring over all rows so that the run takes about this long",
    )
    parser.add_argument(
        "--seconds", type=_positive, default=0.4, metavar="S", help="measuring time of a row (default 0.4)"
    )
    parser.add_argument(
        "--row-limit",
        type=_positive,
        default=60.0,
        metavar="SECONDS",
        help="skip rows that would take longer with all peers (default 60)",
    )
    caches = parser.add_mutually_exclusive_group()
    caches.add_argument(
        "--warm", action="store_true", help="leave the caches to the calls themselves (the default)"
    )
    caches.add_argument("--cold", action="store_true", help="empty the caches before every call")
    parser.add_argument("--json", metavar="FILE", help="write all samples to FILE")
    parser.add_argument("--html", metavar="FILE", help="write a report for a browser to FILE")
    parser.add_argument("--baseline", metavar="FILE", help="compare with a FILE that --json wrote earlier")
    parser.add_argument(
        "--fail-above",
        type=_percent,
        metavar="PERCENT",
        help="exit status 1 if a row is slower than in the baseline by more than this",
    )
    parser.add_argument("--list", action="store_true", help="list the rows instead of running them")
    parser.set_defaults(run=run)


def _check_writable(option: str, path: str) -> None:
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))) or os.path.isdir(path):
        raise ValueError(f"{option} {path}: cannot be written")


def _margin(args: argparse.Namespace) -> float:
    """How much faster or slower is no change yet."""
    return 0.03 if args.fail_above is None else args.fail_above


def _compare(args: argparse.Namespace) -> int:
    """Of two files. Returns 1 if --fail-above is given and a row is SLOWER by more than that."""
    from ..bench import baseline, compare

    if len(args.family) != 3:
        raise ValueError("expected: fastdl bench compare OLD.json NEW.json")
    margin = _margin(args)
    old, new = map(baseline.load, args.family[1:])
    verdicts = compare.compare(old, new, margin)
    print(compare.text(verdicts, margin))
    return int(args.fail_above is not None and any(v.verdict == compare.SLOWER for v in verdicts))


def _report(args: argparse.Namespace) -> int:
    from ..bench import baseline, html

    if len(args.family) != 2 or not args.html:
        raise ValueError("expected: fastdl bench report RUN.json --html FILE")
    document = baseline.load(args.family[1])
    _check_writable("--html", args.html)
    html.write(args.html, document)
    return 0


def run(args: argparse.Namespace) -> int:
    """Runs the benchmark. Returns 1 if a result was wrong or a row too slow."""
    if args.family[0] in ("compare", "report"):
        return _compare(args) if args.family[0] == "compare" else _report(args)
    import fastdl

    from ..bench import baseline, compare, html, machine, report, runner, suites, timing
    from ..bench.budget import Limits
    from ..bench.device import NAMES, Device
    from ..bench.peers import Peers
    from ..bench.progress import Progress

    families = list(suites.FAMILIES) if "all" in args.family else list(dict.fromkeys(args.family))
    names = args.compare
    if names is None:
        own = {
            "cpu": ("torch", "numpy", "jax", "onnxruntime"),
            "cuda": ("torch", "jax", "onnxruntime", "cupy"),
        }
        names = ["one-thread"] if args.suite == ["scaling"] else list(own.get(args.device, ()))
    names = [] if names == ["none"] else names
    for name in names:
        if name not in _ALL_PEERS:
            raise ValueError(f"unknown peer {name!r}: expected some of {', '.join(_ALL_PEERS)}, or none")
    if args.device not in NAMES:
        raise ValueError(f"unknown device {args.device!r}: expected one of {', '.join(NAMES)}")
    where = Device(args.device)
    rows = suites.select(families, args.suite, args.dtype, args.direction, args.filter, args.sample)
    if not rows:
        raise ValueError("no row is left: see --list for the names that --filter and --direction choose from")
    if args.fail_above is not None and not args.baseline:
        raise ValueError("--fail-above needs --baseline")
    old = baseline.load(args.baseline) if args.baseline else None
    for option, path in (("--json", args.json), ("--html", args.html)):
        if path:
            _check_writable(option, path)
    if args.list:
        for row in rows:
            print(row.key + (f" ({row.note})" if row.note else ""))
        return 0

    threads = args.threads or fastdl.get_num_threads()
    fastdl.set_num_threads(threads)
    peers = Peers(names, threads, where)
    env = machine.environment(peers.versions(), where.describe())

    def measure_peaks() -> machine.Peaks:
        if args.device == "cpu":
            return machine.measure_peaks(threads, args.cold)
        return where.measure_peaks(peers.modules)

    peaks = measure_peaks()
    print(report.header(env, peaks, peers.missing), flush=True)
    cold = 2 * max(machine.cache_size(3), 16 << 20) if args.cold else 0
    plan = timing.Plan(seconds=args.seconds, cold=cold)

    limits = Limits(peaks, len(peers.modules) + peers.one_thread, args.row_limit, where.free_memory())
    progress = Progress(rows, limits, args.time_budget)
    try:
        outcomes = runner.run(
            rows,
            peers,
            limits,
            plan,
            args.time_budget,
            report=lambda outcome: progress.done(outcome.row, report.line(outcome)),
            start=progress.start,
        )
    finally:
        progress.close()
    peaks = peaks.best(measure_peaks())  # in case other work held the first measurement up
    for outcome in outcomes:
        outcome.hold_against(peaks)
    print("\n" + report.ceilings(peaks))
    print(report.footer(outcomes))
    document = report.document(outcomes, env, peaks, peers.missing)
    if args.json:
        report.write(args.json, document)
    if args.html:
        html.write(args.html, document)
    failed = any(o.status == runner.FAILED for o in outcomes)
    if old is not None:
        margin = _margin(args)
        verdicts = compare.compare(old, document, margin)
        print(f"\nagainst {baseline.title(old, args.baseline)}:\n{compare.text(verdicts, margin)}")
        failed |= args.fail_above is not None and any(v.verdict == compare.SLOWER for v in verdicts)
    if any(o.reason == runner.INTERRUPTED for o in outcomes):
        return 130
    return int(failed)
