"""Plain float64 NumPy references, one module per family: what every kernel is held to.

Arrays in, arrays out, with torch's argument names. Every function computes in float64 whatever it is given,
states its formula, and has a `_backward` written out by hand from that formula. tests/test_references.py
checks them by finite differences and hand-computed cases, tests/parity/test_references_torch.py against
PyTorch.
"""
