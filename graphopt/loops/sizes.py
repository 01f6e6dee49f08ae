"""Sizes that the text of a loop and the functions it calls agree on. Whoever writes loops need not load numba to know them."""

__all__ = ["LINE", "ROWS", "WIDTH"]

#: The numbers of a vector.
WIDTH = 8

#: The most rows of a block.
ROWS = 256

#: The bytes of a line of the cache.
LINE = 64
