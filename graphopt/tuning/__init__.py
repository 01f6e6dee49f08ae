"""The command ``python -m graphopt chunks``: chunks chosen for usual steps on generated data or a file."""
