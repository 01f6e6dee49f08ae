"""Stochastic: methods that go from row to row, in compiled code. What they share: kernels, visits, walks and passes."""
