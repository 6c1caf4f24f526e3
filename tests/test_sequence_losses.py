"""ctc_loss against the sum over all alignments, multilabel_margin_loss against its definition."""

import itertools

import numpy as np
import pytest
from gradcheck import gradcheck

import fastdl
import fastdl.nn.functional as F


def collapse(path, blank):
    """The labels a path says: repetitions joined, blanks dropped."""
    return [c for c, _ in itertools.groupby(path) if c != blank]


def ctc_reference(log_probs, labels, blank=0):
    """-log of the sum of the probabilities of all paths that say the labels; log_probs (T, C)."""
    steps, classes = log_probs.shape
    total = 0.0
    for path in itertools.product(range(classes), repeat=steps):
        if collapse(path, blank) == list(labels):
            total += np.exp(sum(log_probs[t, c] for t, c in enumerate(path)))
    return -np.log(total) if total else np.inf


def log_probs_of(rng, *shape):
    x = rng.standard_normal(shape)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize("blank", [0, 2])
def test_ctc(blank, rng):
    x = log_probs_of(rng, 5, 6, 3)
    others = [c for c in range(3) if c != blank]
    a, b = others
    labels = [[a], [a, b], [a, a], [], [b, a, b], [a, a, a]]
    inputs = [5, 4, 5, 3, 5, 5]
    expected = np.array(
        [ctc_reference(x[:n, i], y, blank) for i, (n, y) in enumerate(zip(inputs, labels, strict=True))]
    )
    padded = np.full((6, 3), 7)  # what lies beyond a sequence's length is not looked at
    for row, y in zip(padded, labels, strict=True):
        row[: len(y)] = y
    lengths = [len(y) for y in labels]
    flat = [c for y in labels for c in y]
    for targets in (padded, np.array(flat)):
        got = F.ctc_loss(
            fastdl.tensor(x), fastdl.tensor(targets), inputs, fastdl.tensor(lengths), blank, "none"
        )
        np.testing.assert_allclose(got.numpy(), expected, 1e-12)
        got = F.ctc_loss(fastdl.tensor(x), fastdl.tensor(targets), fastdl.tensor(inputs), lengths, blank)
        np.testing.assert_allclose(got.item(), (expected / np.maximum(lengths, 1)).mean(), 1e-12)
        got = F.ctc_loss(fastdl.tensor(x), fastdl.tensor(targets), inputs, lengths, blank, "sum")
        np.testing.assert_allclose(got.item(), expected.sum(), 1e-12)
    single = F.ctc_loss(fastdl.tensor(x[:, 1]), fastdl.tensor(labels[1]), [4], [2], blank, "none")
    np.testing.assert_allclose(single.item(), expected[1], 1e-12)
    gradcheck(lambda t: F.ctc_loss(t, fastdl.tensor(padded), inputs, lengths, blank, "none"), x)


def test_ctc_impossible(rng):
    x = log_probs_of(rng, 2, 2, 3)
    how = (fastdl.tensor([[1, 1], [1, 2]]), [2, 2], [2, 2])  # two equal labels need a blank between them
    assert F.ctc_loss(fastdl.tensor(x), *how, reduction="none").numpy()[0] == np.inf
    t = fastdl.tensor(x, requires_grad=True)
    loss = F.ctc_loss(t, *how, reduction="none", zero_infinity=True)
    loss.sum().backward()
    assert loss.tolist()[0] == 0 and (t.grad.numpy()[:, 0] == 0).all() and (t.grad.numpy()[:, 1] != 0).any()


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"blank": 3}, ValueError, "blank"),
        ({"input_lengths": [6, 5]}, ValueError, "input_lengths"),
        ({"input_lengths": [5]}, ValueError, "2 input_lengths"),
        ({"target_lengths": [3, 1]}, ValueError, "target_lengths"),
        ({"target_lengths": [-1, 1]}, ValueError, "target_lengths"),
        ({"target_lengths": [1.0, 1.0]}, TypeError, "integers"),
        ({"targets": [[1, 9], [1, 2]]}, IndexError, "labels"),
        ({"targets": [1, 2, 1]}, ValueError, "targets"),
        ({"targets": [[1.0, 2.0], [1.0, 2.0]]}, TypeError, "integer"),
        ({"reduction": "most"}, ValueError, "reduction"),
        ({"log_probs": np.zeros(3)}, ValueError, "dimensions"),
        ({"log_probs": np.zeros((5, 2, 3), int)}, TypeError, "floating"),
    ],
)
def test_ctc_errors(change, error, message):
    args = {
        "log_probs": np.zeros((5, 2, 3)),
        "targets": [[1, 2], [1, 2]],
        "input_lengths": [5, 5],
        "target_lengths": [2, 2],
        **change,
    }
    args["log_probs"], args["targets"] = fastdl.tensor(args["log_probs"]), fastdl.tensor(args["targets"])
    with pytest.raises(error, match=message) as caught:
        F.ctc_loss(**args)
    assert str(caught.value).startswith("ctc_loss:")


def margin_reference(x, target):
    listed = list(itertools.takewhile(lambda c: c >= 0, target))
    others = [i for i in range(len(x)) if i not in listed]
    return sum(max(0.0, 1 - (x[j] - x[i])) for j in set(listed) for i in others) / len(x)


def test_multilabel_margin(rng):
    x = rng.standard_normal((4, 5))
    target = np.array([[3, 0, -1, 1, 1], [-1, 0, 1, 2, 3], [0, 1, 2, 3, 4], [2, 2, -1, -1, -1]])
    expected = np.array([margin_reference(*row) for row in zip(x, target, strict=True)])
    for reduction, value in (("none", expected), ("mean", expected.mean()), ("sum", expected.sum())):
        got = F.multilabel_margin_loss(fastdl.tensor(x), fastdl.tensor(target), reduction=reduction)
        np.testing.assert_allclose(got.numpy(), value, 1e-12)
    got = F.multilabel_margin_loss(fastdl.tensor(x[0]), fastdl.tensor(target[0]), reduction="none")
    np.testing.assert_allclose(got.item(), expected[0], 1e-12)
    gradcheck(lambda t: F.multilabel_margin_loss(t, fastdl.tensor(target), reduction="none"), x)
    for bad, error in (
        ((x, target[:2]), ValueError),
        ((x, target + 5), IndexError),
        ((x, x), TypeError),
    ):
        with pytest.raises(error, match="multilabel_margin_loss"):
            F.multilabel_margin_loss(*map(fastdl.tensor, bad))
