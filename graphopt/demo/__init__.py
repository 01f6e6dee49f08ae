"""The main job: logistic regression by gradient descent in plain dask.array, with and without graphopt,
and compiled.

``descent`` is the algorithm, ``problem`` and ``table`` are the data, ``schedulers`` and ``race`` run and time it,
``check`` holds the coefficients against scikit-learn, ``fusion`` looks at what was fused, ``summary`` and ``figure``
show the outcome, ``job`` puts all that together and ``command`` is the command line.
"""
