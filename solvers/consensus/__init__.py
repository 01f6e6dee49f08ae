"""Consensus: asynchronous ADMM, as a deterministic core, the problems of the chunks, and shells that run them."""
