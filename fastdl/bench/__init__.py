"""``fastdl bench``: the kernels beside their peers and their ceilings, in one process.

A `Row` (rows.py) is one measurement: an op, a shape, a dtype, a direction. Each family's module (matmul, conv, rnn,
attention, elementwise, train) names its suites of rows and builds for a row a `Contest`: the same work as a call of
fastdl and of every peer, and the float64 answer on a sample of the outputs. runner.py checks, then times (timing.py);
report.py prints, baseline.py compares with an earlier run. docs/benchmarks.md explains the output.
"""
