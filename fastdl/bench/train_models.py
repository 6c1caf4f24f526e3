"""The seed models of the training benchmark: fastdl's, and what a step of each computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

CLASSES = 10
PIXELS, NOISE = 784, 64


@dataclass(frozen=True)
class Model:
    """A model of the benchmark. build: fastdl's, shape: of one input, flops: of one input's forward pass, first: the
    part of them that works on the input itself, which wants no gradient. objective: see `losses`; training, where it
    is not 3 * flops - first: flops of one input's step."""

    name: str
    build: Callable[[], Any]
    shape: tuple[int, ...]
    flops: float
    first: float
    group: str
    objective: str = "classify"
    training: float = 0.0

    @property
    def step_flops(self) -> float:
        return self.training or 3 * self.flops - self.first


def parts(model: Model, module: Any) -> list[Any]:
    """What is trained by an optimizer of its own, in the order of `losses`."""
    return [module.discriminator, module.generator] if model.objective == "adversarial" else [module]


def losses(objective: str, functional: Any, module: Any, x: Any, y: Any) -> Iterator[Any]:
    """The loss of each of the `parts`: the second is computed after the first part has been updated. ``functional`` is
    fastdl's or torch's.

    "classify": cross-entropy; "reconstruct": mean squared error of the input itself; "adversarial": the discriminator's
    and the generator's loss of a GAN (Goodfellow et al. 2014, sec. 3, with the generator's -log D); x: images, noise.
    """
    if objective == "classify":
        yield functional.cross_entropy(module(x), y)
    elif objective == "reconstruct":
        yield functional.mse_loss(module(x), x)
    else:
        entropy = functional.binary_cross_entropy_with_logits
        made = module.generator(x[:, PIXELS:])
        real, fake = module.discriminator(x[:, :PIXELS]), module.discriminator(made.detach())
        yield entropy(real, real.detach() * 0 + 1) + entropy(fake, fake.detach() * 0)
        fake = module.discriminator(made)
        yield entropy(fake, fake.detach() * 0 + 1)


def stepper(
    model: Model,
    functional: Any,
    module: Any,
    optimizers: Sequence[Any],
    narrow: Callable[[], Any],
    x: Any,
    y: Any,
) -> Callable[[], tuple]:
    """A function that does a training step, of fastdl or torch, and returns its losses. optimizers: of the `parts`;
    narrow: makes the context, autocast or none, in which losses are computed."""

    def call() -> tuple:
        found = []
        work = losses(model.objective, functional, module, x, y)
        for optimizer in optimizers:
            with narrow():
                loss = next(work)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss)
        return tuple(found)

    return call


def _cnn() -> Any:
    from .. import models

    return models.cnn((1, 28, 28), CLASSES)


def _mlp() -> Any:
    from .. import models

    return models.mlp((1, 28, 28), CLASSES)


def _lstm() -> Any:
    from .. import models

    return models.lstm((1, 28, 28), CLASSES, hidden=64)


def _linear() -> Any:
    from .. import models

    return models.linear((1, 28, 28), CLASSES)


def recurrent(nn: Any, layer: Any) -> Any:
    """A recurrent layer over the rows of an image, and a Linear on its last state; ``nn`` is fastdl's or torch's."""

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer
            self.head = nn.Linear(64, CLASSES)

        def forward(self, x: Any) -> Any:
            return self.head(self.layer(x[:, 0])[1][0])

    return Classifier()


def _rnn() -> Any:
    from .. import nn

    return recurrent(nn, nn.RNN(28, 64, batch_first=True))


def _tiny() -> Any:
    from .. import nn

    return nn.Sequential(nn.Linear(32, 32, activation="relu"), nn.Linear(32, CLASSES))


def transformer(nn: Any) -> Any:
    """Two encoder layers of width 256 with 4 heads over 64 positions, and a Linear on their mean; ``nn`` is fastdl's or
    torch's. Without dropout, so that results can be compared."""

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(256, 4, 1024, 0.0, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2)
            self.head = nn.Linear(256, CLASSES)

        def forward(self, x: Any) -> Any:
            return self.head(self.encoder(x).mean(1))

    return Classifier()


def _transformer() -> Any:
    from .. import nn

    return transformer(nn)


def autoencoder(layer: Callable[..., Any], nn: Any) -> Any:
    """784-128-32-128-784; ``layer(inputs, outputs, activation)`` makes a layer of fastdl or torch."""
    return nn.Sequential(
        layer(PIXELS, 128, "relu"),
        layer(128, 32, "relu"),
        layer(32, 128, "relu"),
        layer(128, PIXELS, "sigmoid"),
    )


def adversaries(layer: Callable[..., Any], nn: Any) -> Any:
    """The generator, 64-256-784, and the discriminator, 784-256-1, of a GAN."""

    class Adversaries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator = nn.Sequential(layer(NOISE, 256, "relu"), layer(256, PIXELS, "tanh"))
            self.discriminator = nn.Sequential(layer(PIXELS, 256, "relu"), layer(256, 1, None))

    return Adversaries()


def _layer(inputs: int, outputs: int, activation: str | None) -> Any:
    from .. import nn

    return nn.Linear(inputs, outputs, activation=activation)


def _autoencoder() -> Any:
    from .. import nn

    return autoencoder(_layer, nn)


def _adversaries() -> Any:
    from .. import nn

    return adversaries(_layer, nn)


_CNN_FLOPS = 2.0 * (26 * 26 * 32 * 9 + 11 * 11 * 64 * 288 + 9 * 64 * 576 + 576 * 64 + 64 * CLASSES)
_CNN_FIRST = 2.0 * 26 * 26 * 32 * 9
_LAYER_FLOPS = 2.0 * 64 * (4 * 256 * 256 + 2 * 256 * 1024) + 4.0 * 64 * 64 * 256
_CODED = 2.0 * 2 * (PIXELS * 128 + 128 * 32)
# Of a GAN's step: the generator's products three times, without its input's gradient; the discriminator's on real and
# generated images, forward and for the weights, then forward and back through it (whose own gradients nobody wants, but
# backward() makes them)
_GENERATOR, _DISCRIMINATOR = 2.0 * (NOISE * 256 + 256 * PIXELS), 2.0 * (PIXELS * 256 + 256)
_GAN_STEP = 3 * _GENERATOR - 2.0 * NOISE * 256 + 9 * _DISCRIMINATOR - 2 * 2.0 * PIXELS * 256
MODELS = {
    "cnn": Model("cnn", _cnn, (1, 28, 28), _CNN_FLOPS, _CNN_FIRST, "train cnn"),
    "mlp": Model("mlp", _mlp, (1, 28, 28), 2.0 * (784 * 512 + 512 * CLASSES), 2.0 * 784 * 512, "train"),
    "lstm64": Model(
        "lstm64", _lstm, (1, 28, 28), 2.0 * 28 * 4 * 64 * (28 + 64), 2.0 * 28 * 4 * 64 * 28, "train"
    ),
    "linear": Model("linear", _linear, (1, 28, 28), 2.0 * 784 * CLASSES, 2.0 * 784 * CLASSES, "train"),
    "rnn64": Model("rnn64", _rnn, (1, 28, 28), 2.0 * 28 * 64 * (28 + 64), 2.0 * 28 * 64 * 28, "train"),
    "transformer": Model(
        "transformer", _transformer, (64, 256), 2 * _LAYER_FLOPS, 2.0 * 64 * 3 * 256 * 256, "train"
    ),
    "mlp32": Model("mlp32", _tiny, (32,), 2.0 * (32 * 32 + 32 * CLASSES), 2.0 * 32 * 32, "train small"),
    "autoencoder": Model(
        "autoencoder", _autoencoder, (PIXELS,), _CODED, 2.0 * PIXELS * 128, "train", "reconstruct"
    ),
    "gan": Model("gan", _adversaries, (PIXELS + NOISE,), 0, 0, "train", "adversarial", _GAN_STEP),
}
