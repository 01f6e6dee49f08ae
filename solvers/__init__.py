"""solvers: generalised linear models on dask arrays, and the proof that graphopt pays.

Nothing is here yet. What will be: estimators with the manners of scikit-learn (`fit`, `predict`, `score`) for data that is
larger than memory or spread over a cluster; under them families, penalties and stopping rules that can be combined freely;
and the algorithms (gradient descent, proximal gradient, Newton, BFGS, SAGA, and ADMM in step or out of step), every
iteration of which runs through plans of graphopt.
"""
