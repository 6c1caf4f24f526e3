"""``fastdl eval``: the accuracy of a checkpoint, class by class."""

from __future__ import annotations

import argparse
from typing import Any

import fastdl

from .. import io
from ..precision import LEVELS
from ..train import Accuracy, ConfusionMatrix, evaluate
from .run import DTYPES, Run, arithmetic
from .sources import NAMES, load_source


def add(commands: Any) -> None:
    """Adds the subcommand to the parser."""
    parser = commands.add_parser(
        "eval",
        help="accuracy, per-class table and confusion matrix of a checkpoint",
        description="Evaluates a checkpoint of fastdl train on the test part of its data.",
    )
    parser.add_argument("file", metavar="FILE", help="checkpoint written by fastdl train --save")
    parser.add_argument("--data", metavar="SET", help=f"{NAMES} (default: what it was trained on)")
    parser.add_argument("--dtype", choices=DTYPES, help="default: what it was trained with")
    parser.add_argument("--precision", choices=LEVELS, help="of float32 products (default: as in training)")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, cuda-sim (default: cpu)")
    parser.add_argument("--threads", type=int, metavar="N", help="default: one per CPU")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Evaluates. Returns 0; errors are raised."""
    setup = Run.restore(args.file, io.read_checkpoint(args.file)["metadata"])
    setup.dtype, setup.precision = args.dtype or setup.dtype, args.precision or setup.precision
    if args.threads:
        fastdl.set_num_threads(args.threads)
    source = load_source(args.data or setup.data, (setup.mean, setup.std))
    setup.check_data(args.file, source)
    model = setup.build_model().to(args.device or "cpu")
    content = io.load_checkpoint(args.file, model)
    matrix = ConfusionMatrix(len(setup.class_names))
    test = (setup.inputs(source.x_test), source.y_test)
    result = evaluate(model, test, setup.loss, [Accuracy(), matrix], autocast=setup.autocast)

    epochs = content["epoch"]
    print(
        f"{args.file}: {setup.model}, {epochs} epoch{'s' * (epochs != 1)} on {setup.data}, {arithmetic(setup)}"
    )
    print(f"data: {source.description}: {len(source.x_test)} test images\n")
    print(_table(setup.class_names, matrix.per_class()))
    print("\nconfusion matrix (rows: true class, columns: prediction)\n")
    print(_matrix(setup.class_names, matrix.compute()))
    print(f"\ntest loss {result['loss']:.4f}\ntest accuracy {result['accuracy']:.4f}")
    return 0


def _table(names: list[str], scores: dict[str, Any]) -> str:
    width = max(12, *map(len, names))
    lines = [f"{'class':<{width}}  precision  recall      F1  images"]
    columns = [scores[name] for name in ("precision", "recall", "f1")]
    for i, name in enumerate(names):
        p, r, f = (column[i] for column in columns)
        lines.append(f"{name:<{width}}  {p:9.4f}  {r:6.4f}  {f:6.4f}  {scores['support'][i]:6d}")
    p, r, f = (column.mean() for column in columns)
    lines.append(f"{'mean':<{width}}  {p:9.4f}  {r:6.4f}  {f:6.4f}  {scores['support'].sum():6d}")
    return "\n".join(lines)


def _matrix(names: list[str], counts: Any) -> str:
    width = max(map(len, names))
    cell = max(4, len(str(counts.max())), len(str(len(names) - 1)))
    lines = [" " * (width + 5) + " ".join(f"{i:>{cell}}" for i in range(len(names)))]
    for i, name in enumerate(names):
        lines.append(f"{name:<{width}} {i:>3} " + " ".join(f"{n:>{cell}}" for n in counts[i]))
    return "\n".join(lines)
