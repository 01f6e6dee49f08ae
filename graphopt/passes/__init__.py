"""The rewrites, one a file. Each is a pure function from graph to graph and none knows of another.

Every rewrite declares its kind: ``EXACT`` is true where the values of the kept keys stay the same bit for bit.
"""
