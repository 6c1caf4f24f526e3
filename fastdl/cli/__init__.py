"""The command line: ``fastdl train | eval | info | bench``. Each subcommand is a module with ``add`` and ``run``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

# What a user's input or machine can cause; anything else is a bug and keeps its traceback.
_EXPECTED = (
    ArithmeticError,
    ImportError,
    IndexError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
_INTERRUPTED = 130  # 128 + SIGINT, as shells report it


class _Parser(argparse.ArgumentParser):
    """Errors take one line, like all others of the command."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"fastdl: error: {message} (see {self.prog} --help)\n")


class _PrintPath(argparse.Action):
    """Prints ``const`` and exits. argparse's own "version" would break a long path over two lines."""

    def __init__(self, **options: Any):
        super().__init__(nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(self.const)
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 0, 2 after an error, 130 after Ctrl-C."""
    parser = _Parser(
        prog="fastdl",
        description="Train, evaluate and measure small models and kernels, on fastdl's own kernels.",
        epilog="FASTDL_DEBUG=1 shows the traceback of an error.",
    )
    from .. import __version__

    parser.add_argument("--version", action="version", version=f"fastdl {__version__}")
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for name, folder, what in (
        ("cmakedir", os.path.join("share", "cmake", "fastdl"), "the CMake package"),
        ("includedir", "include", "the C and C++ headers"),
        ("libdir", "lib", "the libraries"),
    ):
        parser.add_argument(
            f"--{name}",
            action=_PrintPath,
            const=os.path.join(package, folder),
            help=f"print the folder of {what} and exit",
        )
    parser.add_argument(
        "--selftest", action="store_true", help="compare every family of kernels with NumPy and exit"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_Parser)

    from . import bench, evaluate, info, selftest, train

    for module in (train, evaluate, info, bench):
        module.add(commands)
    args = parser.parse_args(argv)
    if args.selftest:
        args.run = selftest.run
    if not hasattr(args, "run"):
        parser.print_help()
        return 0
    try:
        return args.run(args) or 0
    except KeyboardInterrupt as interrupt:
        print(f"fastdl: interrupted{f': {interrupt}' if str(interrupt) else ''}", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone (| head): be quiet, and keep the interpreter from flushing into it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except _EXPECTED as error:
        if os.environ.get("FASTDL_DEBUG"):
            raise
        text: object = error
        if isinstance(error, OSError) and error.strerror:
            text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        print(f"fastdl: error: {' '.join(str(text).split()) or type(error).__name__}", file=sys.stderr)
        return 2
