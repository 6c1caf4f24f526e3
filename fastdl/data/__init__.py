"""Datasets, samplers, the DataLoader, IDX files and two small image sets."""

from fastdl.data.dataset import ConcatDataset, Dataset, Subset, TensorDataset, random_split
from fastdl.data.idx import read_idx, write_idx
from fastdl.data.images import digits, fashion_mnist
from fastdl.data.loader import DataLoader, default_collate
from fastdl.data.sampler import BatchSampler, RandomSampler, Sampler, SequentialSampler

__all__ = [
    "BatchSampler",
    "ConcatDataset",
    "DataLoader",
    "Dataset",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "Subset",
    "TensorDataset",
    "default_collate",
    "digits",
    "fashion_mnist",
    "random_split",
    "read_idx",
    "write_idx",
]
