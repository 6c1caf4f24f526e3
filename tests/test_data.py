import gzip
import threading
import time

import numpy as np
import pytest

from fastdl import random
from fastdl.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
    digits,
    fashion_mnist,
    random_split,
    read_idx,
    write_idx,
)
from fastdl.data.transforms import normalize, random_crop, random_flip
from fastdl.tensor import Tensor


class Squares(Dataset):
    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        return np.float32(i), i * i


def order(loader):
    return [int(v) for batch in loader for v in batch[0].numpy()]


def rows(n):
    return TensorDataset(np.arange(n, dtype=np.float32), np.arange(n) * 10)


# --- datasets -----------------------------------------------------------------------------------------------


def test_tensor_dataset_indexes_rows():
    data = TensorDataset(np.arange(12.0).reshape(4, 3), np.arange(4))
    x, y = data[2]
    assert isinstance(x, Tensor) and x.tolist() == [6, 7, 8] and y.item() == 2
    assert len(data) == 4 and len(data.tensors) == 2
    batch = data.take(np.array([3, 0]))
    assert batch[0].tolist() == [[9, 10, 11], [0, 1, 2]] and batch[1].tolist() == [3, 0]


def test_take_shares_nothing_and_is_contiguous():
    x = np.zeros((4, 3), np.float32)[:, ::-1]
    (batch,) = TensorDataset(x).take(np.arange(4))
    assert batch.numpy().flags.c_contiguous and not np.shares_memory(batch.numpy(), x)


@pytest.mark.parametrize(
    "args, error, text",
    [
        ((), ValueError, "at least one"),
        ((np.zeros(3), np.zeros(4)), ValueError, r"\(3,\), \(4,\)"),
        ((np.float32(1),), ValueError, "first dimension"),
        (([[1.0], [2.0, 3.0]],), ValueError, "ragged"),
        ((["a", "b"],), TypeError, "numbers"),
        ((None,), TypeError, "NoneType"),
    ],
)
def test_tensor_dataset_rejects(args, error, text):
    with pytest.raises(error, match=text):
        TensorDataset(*args)


def test_subset_and_concat():
    data = rows(10)
    part = Subset(data, [7, -1, 3])
    assert [int(part[i][0]) for i in range(3)] == [7, 9, 3]
    assert part.take(np.array([2, 0]))[1].tolist() == [30, 70]
    nested = Subset(part, [1])
    assert order(DataLoader(nested)) == [9]
    both = ConcatDataset([rows(2), rows(3)])
    assert len(both) == 5 and [int(both[i][0]) for i in range(5)] == [0, 1, 0, 1, 2] and int(both[-1][0]) == 2
    assert len(rows(1) + rows(2)) == 3
    assert order(DataLoader(both, 2)) == [0, 1, 0, 1, 2]
    with pytest.raises(IndexError, match="below 5"):
        both[5]
    with pytest.raises(IndexError, match="got 10"):
        Subset(data, [0, 10])
    with pytest.raises(TypeError, match="integers"):
        Subset(data, [0.5])
    assert len(Subset(data, [])) == 0
    assert not hasattr(Subset(Squares(3), [0]), "take")


def test_random_split():
    parts = random_split(rows(10), [7, 3], seed=1)
    seen = sorted(i for part in parts for i in order(DataLoader(part)))
    assert [len(p) for p in parts] == [7, 3] and seen == list(range(10))
    again = random_split(rows(10), [7, 3], generator=np.random.Generator(np.random.Philox(1)))
    assert again[0].indices.tolist() == parts[0].indices.tolist()
    assert [len(p) for p in random_split(rows(10), [0.5, 0.25, 0.25], seed=0)] == [6, 2, 2]
    random.manual_seed(3)
    first = random_split(rows(10), [5, 5])[0].indices
    random.manual_seed(3)
    assert (random_split(rows(10), [5, 5])[0].indices == first).all()
    for bad in ([3, 3], [0.5, 0.1], [-1, 11], []):
        with pytest.raises(ValueError, match="random_split"):
            random_split(rows(10), bad)
    with pytest.raises(TypeError, match="Generator"):
        random_split(rows(10), [5, 5], generator=42)


# --- samplers and loader ------------------------------------------------------------------------------------


def test_samplers():
    assert list(SequentialSampler(range(3))) == [0, 1, 2]
    sampler = RandomSampler(range(20), seed=0)
    first, second = list(sampler), list(sampler)
    assert sorted(first) == list(range(20)) and first != second
    assert list(RandomSampler(range(20), seed=0)) == first
    assert len(list(RandomSampler(range(3), num_samples=7, seed=0))) == 7
    drawn = list(RandomSampler(range(3), replacement=True, num_samples=50, seed=0))
    assert len(drawn) == 50 and set(drawn) == {0, 1, 2}
    assert len(BatchSampler(range(5), 2, True)) == 2 and len(BatchSampler(range(5), 2)) == 3
    assert list(BatchSampler(range(5), 2, True)) == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="batch_size"):
        BatchSampler(range(5), 0)


@pytest.mark.parametrize("data", [rows(11), Squares(11)], ids=["take", "samples"])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_loader_visits_all_in_order(data, workers):
    loader = DataLoader(data, 4, num_workers=workers)
    assert order(loader) == list(range(11)) and len(loader) == 3
    loader = DataLoader(data, 4, drop_last=True, num_workers=workers)
    assert order(loader) == list(range(8)) and len(loader) == 2
    shuffled = DataLoader(data, 4, shuffle=True, seed=5, num_workers=workers)
    one, two = order(shuffled), order(shuffled)
    assert sorted(one) == list(range(11)) and one != two
    plain = DataLoader(data, 4, shuffle=True, seed=5)
    assert [order(plain), order(plain)] == [one, two]


def test_loader_batch_types():
    x, y = next(iter(DataLoader(Squares(4), 4)))
    assert isinstance(x, Tensor) and x.numpy().dtype == np.float32 and y.numpy().dtype == np.int64


def test_loader_without_seed_follows_manual_seed_and_generator():
    loader = DataLoader(rows(20), 5, shuffle=True)
    random.manual_seed(1)
    first = [order(loader), order(loader)]
    random.manual_seed(1)
    assert [order(loader), order(loader)] == first and first[0] != first[1]
    one, two = (DataLoader(rows(20), 5, shuffle=True, generator=np.random.default_rng(4)) for _ in range(2))
    assert order(one) == order(two)


def test_loader_samplers_and_no_batching():
    data = rows(6)
    assert order(DataLoader(data, 2, sampler=[5, 1, 3])) == [5, 1, 3]
    batches = DataLoader(data, batch_sampler=[[0, 5], [2]])
    assert [b[0].tolist() for b in batches] == [[0, 5], [2]] and len(batches) == 2
    single = list(DataLoader(data, batch_size=None))
    assert len(single) == 6 and tuple(single[3][0].shape) == () and int(single[3][1]) == 30
    joined = DataLoader(data, 3, collate_fn=lambda samples: sum(int(s[0]) for s in samples))
    assert list(joined) == [3, 12]
    assert list(DataLoader(TensorDataset(np.zeros((0, 3))), 4)) == []


@pytest.mark.parametrize(
    "options, error",
    [
        (dict(batch_size=0), ValueError),
        (dict(batch_size=2.0), TypeError),
        (dict(num_workers=-1), ValueError),
        (dict(prefetch_factor=0), ValueError),
        (dict(shuffle=True, sampler=[1]), ValueError),
        (dict(batch_sampler=[[1]], batch_size=2), ValueError),
        (dict(batch_size=None, drop_last=True), ValueError),
        (dict(generator=3), TypeError),
        (dict(seed=-1), ValueError),
    ],
)
def test_loader_rejects(options, error):
    with pytest.raises(error):
        DataLoader(rows(4), **options)


def test_loader_rejects_iterables():
    with pytest.raises(TypeError, match="__len__"):
        DataLoader(iter([1, 2]))


class Failing(Squares):
    def __getitem__(self, i):
        if i == 5:
            raise KeyError("sample five")
        return super().__getitem__(i)


def data_threads():
    return [t for t in threading.enumerate() if t.name.startswith("fastdl-data")]


@pytest.mark.parametrize("workers", [0, 2])
def test_worker_exception_reaches_the_loop_in_order(workers):
    seen = []
    with pytest.raises(KeyError, match="sample five"):
        for batch in DataLoader(Failing(20), 2, num_workers=workers):
            seen.append(batch[0].tolist())
    assert seen == [[0, 1], [2, 3]]
    assert not data_threads()


def test_leaving_the_loop_stops_the_workers():
    iterator = iter(DataLoader(Squares(1000), 2, num_workers=3))
    next(iterator)
    assert data_threads()
    iterator.close()
    assert not data_threads()


def test_prefetch_is_bounded():
    calls = []

    class Counting(Squares):
        def __getitem__(self, i):
            calls.append(i)
            return super().__getitem__(i)

    iterator = iter(DataLoader(Counting(1000), 1, num_workers=2, prefetch_factor=3))
    next(iterator)
    time.sleep(0.05)
    assert len(calls) <= 1 + 2 * 3 + 1
    iterator.close()


@pytest.mark.parametrize(
    "options", [dict(seed=7), dict(generator=True), dict()], ids=["seed", "generator", "global"]
)
@pytest.mark.parametrize("stop", [0, 2, 4])
@pytest.mark.parametrize("workers", [0, 2])
def test_resume_continues_the_order(options, stop, workers):
    def make():
        chosen = dict(options)
        if "generator" in chosen:
            chosen["generator"] = np.random.Generator(np.random.Philox(9))
        return DataLoader(rows(16), 4, shuffle=True, num_workers=workers, **chosen)

    random.manual_seed(2)
    loader = make()
    expected = [order(loader) for _ in range(3)]

    random.manual_seed(2)
    loader = make()
    assert order(loader) == expected[0]
    iterator = iter(loader)
    got = [int(v) for _ in range(stop) for v in next(iterator)[0].numpy()]
    state, rng = loader.state_dict(), random.get_rng_state()
    iterator.close()
    random.manual_seed(99)
    resumed = make()
    resumed.load_state_dict(state)
    random.set_rng_state(rng)
    got += order(resumed)
    assert got == expected[1] and order(resumed) == expected[2]


def test_bad_loader_state():
    with pytest.raises(ValueError, match="expected a state"):
        DataLoader(rows(4)).load_state_dict({"epoch": 1})
    state = DataLoader(rows(4), generator=np.random.Generator(np.random.Philox(1))).state_dict()
    with pytest.raises(ValueError, match="generator"):
        DataLoader(rows(4)).load_state_dict(state)


def test_transform_is_reproducible_for_any_number_of_workers():
    def jitter(batch, rng):
        return batch[0].numpy() + rng.random(len(batch[0].numpy()))

    runs = [
        np.concatenate(list(DataLoader(rows(32), 4, num_workers=w, seed=1, transform=jitter)))
        for w in (0, 1, 4)
    ]
    assert (runs[0] == runs[1]).all() and (runs[0] == runs[2]).all()


# --- collate ------------------------------------------------------------------------------------------------


def test_default_collate():
    out = default_collate([{"a": 1, "b": (2.0, "x")}, {"a": 3, "b": (4.0, "y")}])
    assert out["a"].tolist() == [1, 3] and out["b"][0].tolist() == [2, 4] and out["b"][1] == ["x", "y"]
    assert out["b"][0].numpy().dtype == np.float32 and out["a"].numpy().dtype == np.int64
    assert default_collate([True, False]).numpy().dtype == bool
    stacked = default_collate([Tensor(np.ones(2, np.float32)), Tensor(np.zeros(2, np.float32))])
    assert stacked.tolist() == [[1, 1], [0, 0]]
    with pytest.raises(ValueError, match="one shape"):
        default_collate([np.zeros(2), np.zeros(3)])
    with pytest.raises(ValueError, match="2 members"):
        default_collate([(1, 2), (1, 2, 3)])
    with pytest.raises(ValueError, match="dicts"):
        default_collate([{"a": 1}, {"b": 1}])
    with pytest.raises(TypeError, match="NoneType"):
        default_collate([None])
    with pytest.raises(ValueError, match="at least one"):
        default_collate([])


# --- IDX ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("name", ["x-idx", "x-idx.gz"])
def test_idx_round_trip(tmp_path, dtype, name):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    write_idx(tmp_path / name, array)
    back = read_idx(tmp_path / name)
    assert back.dtype == array.dtype and back.dtype.isnative and (back == array).all()
    write_idx(tmp_path / name, np.zeros((0, 28), dtype))
    assert read_idx(tmp_path / name).shape == (0, 28)


IDX = b"\0\0\x08\x02" + b"\0\0\0\x02\0\0\0\x03" + bytes(6)


@pytest.mark.parametrize(
    "content, text",
    [
        (b"", "got 0"),
        (b"\0\0\x08", "got 3"),
        (b"\x89PNG" + bytes(100), "not an IDX file"),
        (b"\0\0\x07\x01" + bytes(10), "not an IDX file"),
        (IDX[:9], "expected 8 bytes of dimensions"),
        (IDX[:-1], r"truncated: expected 6 bytes for shape \(2, 3\), got 5"),
        (IDX + b"\0", "trailing bytes: expected 6"),
        (b"\0\0\x0e\x03" + b"\xff" * 12 + bytes(99), "truncated.*got 99"),
        (gzip.compress(IDX, mtime=0)[:-9], "truncated gzip"),
        (gzip.compress(IDX[:-2], mtime=0), "truncated: expected 6.*got 4"),
        (gzip.compress(IDX, mtime=0)[:-8] + bytes(8), "corrupt gzip"),
        (b"\x1f\x8b" + bytes(40), "corrupt gzip"),
        (b"\x1f\x8b", "truncated gzip"),
    ],
)
def test_bad_idx_names_file_and_problem(tmp_path, content, text):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"(?s)train-images-idx3-ubyte: .*{text}"):
        read_idx(path)


def test_missing_idx(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        read_idx(tmp_path / "nothing-here")
    with pytest.raises(TypeError, match="int64"):
        write_idx(tmp_path / "x", np.arange(3))


# --- image sets ---------------------------------------------------------------------------------------------


def write_set(folder, n=6, ending=".gz"):
    rng = np.random.default_rng(0)
    for part, count in (("train", n), ("t10k", n // 2)):
        write_idx(
            folder / f"{part}-images-idx3-ubyte{ending}", rng.integers(0, 256, (count, 28, 28)).astype("u1")
        )
        write_idx(folder / f"{part}-labels-idx1-ubyte{ending}", rng.integers(0, 10, count).astype("u1"))


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_fashion_mnist_files(tmp_path, ending, monkeypatch):
    write_set(tmp_path, ending=ending)
    (x, y), (tx, ty) = fashion_mnist(tmp_path)
    assert x.shape == (6, 1, 28, 28) and x.dtype == np.float32 and 0 <= x.min() < x.max() <= 1
    assert y.shape == (6,) and y.dtype == np.int64 and tx.shape[0] == len(ty) == 3
    monkeypatch.setenv("FASTDL_DATA", str(tmp_path))
    assert (fashion_mnist()[0][0] == x).all()


def test_fashion_mnist_rejects(tmp_path):
    with pytest.raises(FileNotFoundError, match="train-images"):
        fashion_mnist(tmp_path)
    write_set(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.zeros(5, np.uint8))
    with pytest.raises(ValueError, match=r"expected 6 labels.*got 5"):
        fashion_mnist(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.zeros((6, 1), np.uint8))
    with pytest.raises(ValueError, match="rank 1"):
        fashion_mnist(tmp_path)
    write_set(tmp_path)
    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", np.zeros((3, 8, 8), np.uint8))
    with pytest.raises(ValueError, match="t10k-images"):
        fashion_mnist(tmp_path)


def test_digits():
    pytest.importorskip("sklearn")
    (x, y), (tx, ty) = digits()
    assert (
        x.shape == (1438, 1, 8, 8)
        and tx.shape == (359, 1, 8, 8)
        and x.dtype == np.float32
        and y.dtype == np.int64
    )
    assert x.max() == 1 and set(ty) == set(range(10)) and (digits()[0][1] == y).all()
    with pytest.raises(ValueError, match="test_fraction"):
        digits(1.5)


# --- transforms ---------------------------------------------------------------------------------------------


def test_flip_and_crop():
    x = np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    rng = np.random.default_rng(0)
    assert (random_flip(x, 1.0, rng=rng) == x[..., ::-1]).all()
    assert (random_flip(x, 1.0, axis=-2, rng=rng) == x[..., ::-1, :]).all()
    assert (random_flip(x, 0.0, rng=rng) == x).all()
    some = random_flip(np.arange(200.0).reshape(100, 1, 1, 2), rng=rng)
    assert 20 < (some[:, 0, 0, 0] > some[:, 0, 0, 1]).sum() < 80
    crop = random_crop(x, (2, 3), rng=rng)
    assert crop.shape == (2, 3, 2, 3) and crop.flags.c_contiguous
    i = int(crop[1, 0, 0, 0]) - 60
    assert (crop[1] == x[1, :, i // 5 : i // 5 + 2, i % 5 : i % 5 + 3]).all()
    padded = random_crop(np.ones((50, 1, 4, 4)), padding=2, fill=7, rng=rng)
    assert padded.shape == (50, 1, 4, 4) and set(np.unique(padded)) == {1, 7}
    assert isinstance(random_crop(Tensor(x), 2, rng=rng), Tensor)
    same = [random_crop(x, 2, rng=np.random.default_rng(5)) for _ in range(2)]
    assert (same[0] == same[1]).all()


def test_transforms_reject():
    x = np.zeros((2, 3, 4, 5))
    for call in (
        lambda: random_crop(x, 9),
        lambda: random_crop(x, padding=-1),
        lambda: random_crop(x[0], 2),
        lambda: random_flip(x, 2.0),
        lambda: random_flip(x, axis=1),
        lambda: normalize(x, [1, 2], 1),
        lambda: normalize(x, 0, 0),
    ):
        with pytest.raises(ValueError):
            call()
    with pytest.raises(TypeError):
        random_flip([1, 2])


def test_normalize():
    x = np.random.default_rng(0).random((8, 3, 4, 4)).astype(np.float32)
    z = normalize(x, x.mean((0, 2, 3)), x.std((0, 2, 3)))
    assert z.dtype == np.float32
    assert abs(z.mean((0, 2, 3))).max() < 1e-5 and abs(z.std((0, 2, 3)) - 1).max() < 1e-5
