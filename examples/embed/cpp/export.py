"""Trains a small MLP on scikit-learn's digits and writes its weights as classifier.cpp reads them.

python export.py WEIGHTS REQUESTS   REQUESTS: the test images, a line of numbers each
"""

import sys

import numpy as np
from sklearn.datasets import load_digits

import fastdl
from fastdl import nn

weights, requests = sys.argv[1:]
fastdl.manual_seed(0)
x, y = load_digits(return_X_y=True)
x = (x / 16).astype(np.float32)
train, test = slice(0, 1500), slice(1500, None)
model = nn.Sequential(nn.Linear(64, 48, activation="relu"), nn.Linear(48, 10))
loss = nn.CrossEntropyLoss()
optimizer = fastdl.optim.Adam(model.parameters(), lr=0.01)
data = fastdl.data.TensorDataset(x[train], y[train])
fastdl.fit(model, fastdl.data.DataLoader(data, 64, shuffle=True), loss, optimizer, epochs=10, verbose=0)

with open(weights, "wb") as file:
    for layer in model:
        for parameter in (layer.weight, layer.bias):
            array = parameter.detach().numpy()
            np.array(array.shape + (1,) * (2 - array.ndim), np.int64).tofile(file)
            np.ascontiguousarray(array).tofile(file)
np.savetxt(requests, x[test], fmt="%.9g")
model.eval()
answers = model(fastdl.tensor(x[test])).argmax(1).numpy()
print(*answers)
print(f"accuracy {np.mean(answers == y[test]):.3f}", file=sys.stderr)
