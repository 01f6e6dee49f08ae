"""The floors of the house: who may import whom, read from the source of every module.

A module imports only from floors below its own. Modules on one floor are strangers, but for the pairs listed in `BESIDE`
and for the modules of one package, except the passes, which never import each other.

A new module must be given its floor here.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: The floor of every module, or of every package whose modules share one.
FLOORS = {
    "graphopt": {
        "spec": 0,
        "types": 0,
        "blockwise": 1,
        "building": 1,
        "fingerprint": 1,
        "functions": 1,
        "held": 1,
        "graph": 1,
        "region": 1,
        "sizes": 1,
        "program": 1,
        "outline": 1,
        "symmetry": 1,
        "prologue": 1,
        "notes": 1,
        "tree": 1,
        "standins": 1,
        "formula": 1,
        "lean": 1,
        "native": 1,
        "shared": 1,
        "sharing": 2,
        "cost": 1,
        "makespan": 1,
        "passes": 2,
        "peephole": 3,
        "source": 3,
        "kernel": 3,
        "loops": 3,
        "explain": 4,
        "pipeline": 4,
        "trace": 5,
        "schedule": 5,
        "widen": 5,
        "partition": 5,
        "parts": 5,
        "lazy": 5,
        "plan": 5,
        "execute": 6,
        "replay": 6,
        "context": 6,
        "cluster": 6,
        "compiled": 6,
        "iterate": 6,
        "overhead": 6,
        "chunks": 6,
        "granularity": 6,
        "numba_cache": 6,
        "report": 7,
        "demo": 7,
        "tuning": 7,
        "__main__": 7,
    },
    "solvers": {
        "inference": 0,
        "result": 0,
        "types": 0,
        "deviance": 1,
        "families": 1,
        "penalties": 1,
        "linesearch": 1,
        "units": 1,
        "data": 2,
        "kernels": 2,
        "objective": 3,
        "rows": 3,
        "iterate": 4,
        "moments": 4,
        "gram": 4,
        "local": 4,
        "multinomial": 4,
        "quadratic": 4,
        "scaled": 4,
        "stochastic": 4,
        "gradient": 5,
        "proximal": 5,
        "newton": 5,
        "bfgs": 5,
        "saga": 5,
        "giant": 5,
        "admm": 5,
        "information": 5,
        "chunks": 6,
        "consensus": 6,
        "fit": 6,
        "path": 7,
        "estimators": 7,
        "search": 8,
    },
}

#: Who may import whom on the same floor. The listing runs from the ground up, so it cannot hold a cycle.
BESIDE = {
    "graphopt": {
        "types": {"spec"},
        "graph": {"blockwise"},
        "region": {"functions", "graph"},
        "shared": {"graph"},
        "sizes": {"graph", "region"},
        "prologue": {"graph"},
        "symmetry": {"blockwise", "functions", "graph"},
        "program": {"functions", "graph"},
        "standins": {"building", "program", "tree"},
        "formula": {"standins"},
        "outline": {"functions", "graph", "program", "standins"},
        "source": {"peephole"},
        "loops": {"peephole"},
        "kernel": {"source"},
        "explain": {"pipeline"},
        "parts": {"schedule"},
        "partition": {"parts", "schedule"},
        "lazy": {"schedule", "trace"},
        "widen": {"schedule"},
        "plan": {"lazy", "schedule", "trace", "widen"},
        "replay": {"execute"},
        "context": {"replay"},
        "cluster": {"context"},
        "compiled": {"chunks", "cluster", "context", "execute"},
        "iterate": {"compiled", "execute"},
        "overhead": {"compiled"},
        "granularity": {"compiled", "iterate"},
        "demo": {"report"},
        "tuning": {"demo", "report"},
        "__main__": {"report", "demo", "tuning"},
    },
    "solvers": {
        "result": {"inference"},
        "objective": {"rows"},
        "gram": {"moments"},
        "information": {"newton"},
        "fit": {"chunks", "consensus"},
    },
}

STRANGERS = {("graphopt", "passes")}  # packages whose modules do not import each other
SURFACE_FROM = 7  # modules below this floor are behind graphopt's surface and must not import it: that is a circle
CLUSTER_FROM = 6  # modules below this floor know nothing of distributed

PACKAGES = tuple(FLOORS)


def modules(package: str) -> dict[str, Path]:
    """Map the dotted names of all modules of a package, without the package's own name, to their files."""
    out = {}
    for file in sorted((ROOT / package).rglob("*.py")):
        parts = list(file.relative_to(ROOT / package).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        out[".".join(parts)] = file
    return out


def imports(source: str, package: str, module: str, is_package: bool = False) -> Iterator[str]:
    """Yield the absolute dotted name of everything that a module imports, wherever in the module it does so."""
    here = [package, *filter(None, module.split("."))]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # relative: one dot is the package that the module is in
                up = here[: len(here) - node.level + is_package]
                base = ".".join([*up, *filter(None, [base])])
            for alias in node.names:
                yield f"{base}.{alias.name}"


def home(dotted: str, package: str) -> str:
    """Return the module of ours that a dotted name is, or is in; "" is the package's surface."""
    known = modules(package)
    parts = dotted.split(".")[1:]
    while parts and ".".join(parts) not in known:
        parts.pop()
    return ".".join(parts)


def violations(package: str, module: str, imported: str) -> Iterator[str]:
    """Yield what is wrong with one import: at most one sentence."""
    top, floors = module.split(".")[0], FLOORS[package]
    floor = floors[top]
    target = imported.split(".")[0]
    if (target == "distributed" or imported.startswith("dask.distributed")) and floor < CLUSTER_FROM:
        yield f"imports {target}, which is for floors {CLUSTER_FROM} and up"
    elif target in PACKAGES and target != package:
        if package == "graphopt":
            yield f"imports {imported}: graphopt knows nothing of its users"
        elif home(imported, target):
            yield f"imports {imported}, which is private; what {target} offers is in its surface"
    elif target == package:
        other = home(imported, package)
        if not other:
            if floor < SURFACE_FROM:
                yield f"imports the surface of {package} from floor {floor}, behind it"
        elif other.split(".")[0] == top:
            if (package, top) in STRANGERS and other not in (top, module):
                yield f"imports {other}: modules of {top} do not know each other"
        elif (other_floor := floors.get(other.split(".")[0])) is not None:
            allowed = other_floor < floor or other.split(".")[0] in BESIDE[package].get(top, ())
            if not allowed:
                yield f"is on floor {floor} and imports {other} on floor {other_floor}"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_has_a_floor(package: str) -> None:
    """A newcomer is placed by whoever adds it."""
    unplaced = {module for module in modules(package) if module and module.split(".")[0] not in FLOORS[package]}
    assert not unplaced, f"give these modules of {package} a floor in {Path(__file__).name}: {sorted(unplaced)}"


@pytest.mark.parametrize("package", PACKAGES)
def test_modules_import_from_below(package: str) -> None:
    wrong = []
    for module, file in modules(package).items():
        if module.split(".")[0] not in FLOORS[package]:
            continue  # the surface is exempt; what is unplaced is the other test's business
        for imported in imports(file.read_text(encoding="utf-8"), package, module, file.name == "__init__.py"):
            wrong += [f"{package}.{module} {sentence}" for sentence in violations(package, module, imported)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("package", PACKAGES)
def test_the_table_is_sound(package: str) -> None:
    """Leave to import beside is given on one floor only, and upwards in the listing only."""
    seen: set[str] = set()
    for module, others in BESIDE[package].items():
        assert {FLOORS[package][other] for other in others} == {FLOORS[package][module]}
        assert not others & (BESIDE[package].keys() - seen), f"{module} is listed before what it imports"
        seen.add(module)


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("types", "import numpy", False),
        ("graph", "from graphopt.types import Key", False),
        ("graph", "from .types import Key", False),
        ("types", "from graphopt.graph import toposort", True),
        ("types", "def f():\n    from . import graph", True),
        ("functions", "from graphopt import graph", True),
        ("sizes", "from graphopt.region import Region", False),
        ("kernel", "import graphopt", True),
        ("kernel", "from graphopt import Policy", True),
        ("demo.race", "import graphopt as go", False),
        ("demo.race", "from graphopt.demo import problem", False),
        ("passes.cull", "from graphopt.passes.common import common", True),
        ("passes.cull", "from .common import common", True),
        ("passes.cull", "from ..graph import toposort", False),
        ("passes.cull", "from graphopt.kernel import generate", True),
        ("pipeline", "import distributed", True),
        ("pipeline", "def f():\n    from distributed.worker import get_worker", True),
        ("pipeline", "from dask.distributed import Client", True),
        ("execute.distributed", "from distributed import Client", False),
        ("__main__", "import solvers", True),
    ],
)
def test_the_rules_bite(module: str, source: str, wrong: bool) -> None:
    """Each rule on a module that keeps it and one that breaks it."""
    found = [
        sentence for imported in imports(source, "graphopt", module) for sentence in violations("graphopt", module, imported)
    ]
    assert bool(found) == wrong, found


def test_solvers_see_only_the_surface() -> None:
    assert not list(violations("solvers", "objective", "graphopt.compile"))
    assert list(violations("solvers", "objective", "graphopt.kernel.generate"))


# -- what must not be in any file --------------------------------------------------------------------------------------

#: Folders of one machine or one person, at the start of a path.
LOCAL = re.compile(r"(?<![\w.~-])/(?:work|home|root|Users)/")


def files() -> Iterator[Path]:
    """Yield the files of the project, without environments, caches and what was built."""
    skipped = {"__pycache__", "_build", "build", "dist", "out"}
    stack = [ROOT]
    while stack:
        for path in sorted(stack.pop().iterdir()):
            if path.is_dir():
                hidden = path.name.startswith(".") and path.name != ".ci"
                if not (hidden or path.name in skipped or (path / "pyvenv.cfg").exists()):
                    stack.append(path)
            elif path.is_file() and path.name != ".git":  # which names the repository in a work tree
                yield path


def test_no_file_names_a_local_path() -> None:
    found = []
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        for number, line in enumerate(text.splitlines(), 1):
            if LOCAL.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found, "\n".join(found)
