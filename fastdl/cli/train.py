"""``fastdl train``: trains one of the seed models on real images."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import fastdl

from ..data import DataLoader, TensorDataset
from ..device import check_device
from ..io import load_checkpoint, read_checkpoint
from ..precision import LEVELS
from ..train import History, ModelCheckpoint, NaNGuard, ProgressBar, evaluate, fit
from . import plot
from .run import DTYPES, OPTIMIZERS, LearningRate, Run, arithmetic, check_writable
from .sources import NAMES, Source, load_source

MODELS = ("linear", "mlp", "cnn", "lstm")


def add(commands: Any) -> None:
    """Adds the subcommand to the parser."""
    parser = commands.add_parser(
        "train",
        help="train a model on real images",
        description="Trains a model on Fashion-MNIST (from --data, $FASTDL_DATA or "
        "/usr/share/datasets/fashion-mnist), else on scikit-learn's digits, and reports its accuracy on the "
        "test part.",
    )
    option = parser.add_argument
    option("--data", metavar="SET", help=f"{NAMES} with the four IDX files of an MNIST-like set")
    option("--model", choices=MODELS, help="default: cnn")
    option("--epochs", type=_count, metavar="N", help="in all, also with --resume (default: 5; digits: 20)")
    option("--batch-size", type=_count, metavar="N", help="default: 64; digits: 32")
    option(
        "--lr",
        type=_positive,
        metavar="RATE",
        help="learning rate of the first epoch (default: by optimizer)",
    )
    option(
        "--lr-decay",
        type=_positive,
        metavar="F",
        help="its factor from epoch to epoch (default: 0.6; digits: 0.85)",
    )
    option("--optimizer", choices=OPTIMIZERS, help="default: adam")
    option(
        "--dtype",
        choices=DTYPES,
        help="of weights and arithmetic; autocast: float32 weights, products in bfloat16 (default: float32)",
    )
    option("--precision", choices=LEVELS, help="of float32 products (default: highest)")
    option("--seed", type=_seed, metavar="N", help="of initial weights and shuffling (default: 0)")
    option("--save", metavar="FILE", help="write a checkpoint (safetensors) after every epoch")
    option("--resume", metavar="FILE", help="go on from a checkpoint (and save to it, without --save)")
    option("--plot", metavar="FILE", help="draw loss and accuracy by epoch (png, pdf, svg; needs matplotlib)")
    option("--device", metavar="NAME", help="cpu, cuda, cuda:1, cuda-sim (default: cpu)")
    option("--threads", type=_count, metavar="N", help="default: one per CPU")
    option("--quiet", action="store_true", help="print the result only")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Trains. Returns 0; errors and interrupts are raised."""
    # Cheap checks first: data and training take a while.
    save = args.save or args.resume
    if save:
        check_writable(save, "--save")
    if args.plot:
        check_writable(args.plot, "--plot")
        plot.check(args.plot)

    say = (lambda *_: None) if args.quiet else _say
    if args.threads:
        fastdl.set_num_threads(args.threads)
    check_device(args.device)
    setup, source = _setup(args, say)
    model = setup.build_model().to(args.device or "cpu")
    optimizer = setup.build_optimizer(model)
    train = TensorDataset(setup.inputs(source.x_train), source.y_train)
    loader = DataLoader(train, setup.batch_size, shuffle=True, seed=setup.seed, pin_memory=bool(args.device))
    say(
        f"model: {setup.model}, {sum(p.numel() for p in model.parameters()):,} parameters; "
        f"{setup.optimizer}, learning rate {setup.lr:g} x {setup.lr_decay:g} per epoch, "
        f"batches of {setup.batch_size}, seed {setup.seed}, "
        f"{args.device or f'{fastdl.get_num_threads()} threads'}, {arithmetic(setup)}"
    )
    history, done = History(), 0
    if args.resume:
        content = load_checkpoint(args.resume, model, optimizer, loader=loader)
        history.load_state_dict(content["extra"].get("history"))
        done = content["epoch"]
        say(f"resume: {args.resume} holds {_epochs(done)} of {setup.epochs}")

    test = (setup.inputs(source.x_test), source.y_test)
    _fit(args, setup, model, optimizer, loader, test, history, done, say)
    accuracy = evaluate(model, test, metrics=["accuracy"], autocast=setup.autocast)["accuracy"]
    if args.plot:
        plot.draw(args.plot, history, f"{setup.model} on {source.spec}")
        say(f"plot: {args.plot}")
    epochs = _epochs(max(done, setup.epochs))
    print(f"test accuracy {accuracy:.4f} after {epochs} on {source.description}", flush=True)
    return 0


def _setup(args: argparse.Namespace, say: Callable[[str], None]) -> tuple[Run, Source]:
    """The hyper-parameters, from the options or from the checkpoint to resume, and the data."""
    stored = None
    if args.resume:
        stored = Run.restore(args.resume, read_checkpoint(args.resume)["metadata"])
        stored.check_options(args.resume, args)
    source = (
        load_source(args.data or stored.data, (stored.mean, stored.std)) if stored else load_source(args.data)
    )
    say(
        f"data: {source.description}: {len(source.x_train)} training and {len(source.x_test)} test images, "
        f"{' x '.join(map(str, source.input_shape))}, {len(source.class_names)} classes"
    )
    if stored is None:
        return Run.start(args, source), source
    stored.check_data(args.resume, source)
    crc32 = source.fingerprint()
    if stored.data_crc32 != crc32:
        say(f"note: {args.resume} was trained on other data; the weights will not be those of one long run")
    stored.data, stored.data_crc32 = source.spec, crc32
    stored.epochs = args.epochs or stored.epochs
    return stored, source


def _fit(
    args: argparse.Namespace,
    setup: Run,
    model: Any,
    optimizer: Any,
    loader: Any,
    test: Any,
    history: Any,
    done: int,
    say: Callable[[str], None],
) -> None:
    """The epochs still to do. An interrupt is raised again with what is left of the run as its text."""
    save = args.save or args.resume
    callbacks: list[Any] = [LearningRate(setup), NaNGuard()]
    checkpoint = None
    if save:
        checkpoint = ModelCheckpoint(save.replace("{", "{{").replace("}", "}}"), metadata=setup.metadata())
        callbacks.append(checkpoint)
        say(f"save: {save} after every epoch")
    if not args.quiet:
        callbacks.append(ProgressBar())
    try:
        fit(
            model,
            loader,
            setup.loss,
            optimizer,
            setup.epochs,
            test,
            ["accuracy"],
            callbacks,
            initial_epoch=done,
            history=history,
            verbose=False,
            autocast=setup.autocast,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_kept(save, checkpoint, args.resume, done)) from None
    if checkpoint and checkpoint.saved_epoch:
        say(f"saved: {save} (try: fastdl eval {save})")


def _kept(save: str | None, checkpoint: Any, resumed: str | None, done: int) -> str:
    """What an interrupted run leaves behind."""
    if checkpoint and checkpoint.saved_epoch:
        return f"{save} holds {_epochs(checkpoint.saved_epoch)}; go on with --resume {save}"
    if resumed:
        return f"{resumed} still holds {_epochs(done)}"
    return "no epoch was whole, nothing is saved" if checkpoint else "nothing is saved (no --save)"


def _epochs(count: int) -> str:
    return f"{count} epoch" if count == 1 else f"{count} epochs"


def _say(*parts: Any) -> None:
    print(*parts, flush=True)


def _count(text: str) -> int:
    value = int(text) if text.lstrip("+-").isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return value


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 64:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 2^64 - 1, got {text!r}")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value
