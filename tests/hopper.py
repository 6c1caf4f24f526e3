"""Fixtures for tests of the kernels of compute capability 9.0."""

import pytest


def kernel_choice(variable, value="sm90"):
    """Two fixtures: everything that Hopper's kernels can compute goes to them (in every test of the module), and one
    that computes something on the portable kernels. ``variable``: of the environment, chooses between them; ``value``:
    what it is to be for the former."""

    @pytest.fixture(autouse=True)
    def sm90(monkeypatch):
        monkeypatch.setenv(variable, value)

    @pytest.fixture
    def portable(monkeypatch):
        def compute(f):
            monkeypatch.setenv(variable, "portable")
            result = f()
            monkeypatch.setenv(variable, value)
            return result

        return compute

    return sm90, portable
