"""Datasets, samplers, the DataLoader, IDX files and two small image sets."""

from .dataset import ConcatDataset, Dataset, Subset, TensorDataset, random_split
from .idx import read_idx, write_idx
from .images import digits, fashion_mnist
from .loader import DataLoader, default_collate
from .sampler import (
    BatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

__all__ = [
    "BatchSampler",
    "ConcatDataset",
    "DataLoader",
    "Dataset",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "Subset",
    "SubsetRandomSampler",
    "TensorDataset",
    "WeightedRandomSampler",
    "default_collate",
    "digits",
    "fashion_mnist",
    "random_split",
    "read_idx",
    "write_idx",
]
