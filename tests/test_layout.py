"""The layout: imports point downwards, folders and signatures stay small, the report loads late.

Each check is a function of the sources, {path: text}, and returns its violations as sentences; it
is shown to fail on a planted one.
"""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

import pytest

from tests.conftest import PROJECT

# From the top down; a package imports from itself and from the layers below its own.
LAYERS = (
    ("runners", "tools", "benchmarks"),  # "runners": the modules beside README.md
    ("utils.ablation",),
    ("utils.run",),
    ("utils.category",),
    ("utils.features",),
    ("utils.experiment",),
    ("utils.compare",),
    ("utils.report",),
    ("utils.results",),
    ("utils.evaluation",),
    ("datasets.custom",),
    ("models", "datasets"),
    ("datasets.render",),
    ("utils",),
)
RANKS = {package: -depth for depth, layer in enumerate(LAYERS) for package in layer}
SIBLINGS = [{"models", "datasets"}, {"models", "datasets.render"}]  # strangers to each other
MODULES_PER_FOLDER = {"models": 12, "datasets": 14}
DEFAULT_MODULES_PER_FOLDER = 9
PARAMETERS = 6
REPORT_ONLY = ("jinja2", "utils.report.page", "utils.report.charts")

Sources = dict[str, str]
Import = tuple[str, int, bool]  # dotted name, line, whether importing the module runs it


def imports_of(source: str) -> Iterator[Import]:
    """Yield every import of a module, also those inside functions."""

    def visit(node: ast.AST, at_import: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield from ((f"{module}.{alias.name}", node.lineno, at_import) for alias in node.names)
        in_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_import and not in_function)

    return visit(ast.parse(source), True)


def package_of(module: str) -> str | None:
    """Return the innermost package in RANKS that holds a dotted name; None for foreign names."""
    if module.startswith("run_"):
        return "runners"
    parents = [module, *map(str, PurePosixPath(module.replace(".", "/")).parents)]
    return next((name for p in parents if (name := p.replace("/", ".")) in RANKS), None)


def upward_imports(sources: Sources) -> list[str]:
    """Find imports of a higher layer, or of a sibling that must stay a stranger."""
    faults = []
    for path, source in sources.items():
        package = package_of(path.removesuffix(".py").replace("/", "."))
        for name, line, _ in imports_of(source):
            imported = package_of(name)
            if package is None or imported is None or package == imported:
                continue
            if RANKS[imported] > RANKS[package] or {package, imported} in SIBLINGS:
                faults.append(f"{path}:{line}: {package} imports {name}")
    return faults


def import_cycles(sources: Sources) -> list[str]:
    """Find modules that import each other, also in functions, for types alone, or through others.

    The imports from a to b, from b to c and from c to b make one fault, of b and c.
    """
    modules = {path.removesuffix(".py").replace("/", "."): s for path, s in sources.items()}
    graph = {}
    for module, source in modules.items():
        names = [name for name, _, _ in imports_of(source)]  # of a module, or of something in it
        graph[module] = {n for name in names for n in (name, name.rpartition(".")[0])} & {*modules}

    def reachable(module: str) -> set[str]:
        reached, pending = set(), [module]
        while pending:
            new = graph[pending.pop()] - reached
            reached |= new
            pending += new
        return reached

    reached = {module: reachable(module) for module in graph}
    cycles = {frozenset(b for b in reached[a] if a in reached[b]) for a in graph} - {frozenset()}
    return sorted(f"{' and '.join(sorted(cycle))} import each other" for cycle in cycles)


def crowded_folders(sources: Sources) -> list[str]:
    """Find folders with more modules than allowed; __init__.py does not count."""
    paths = map(PurePosixPath, sources)
    counts = Counter(str(path.parent) for path in paths if path.name != "__init__.py")
    return [
        f"{folder}/: {count} modules"
        for folder, count in counts.items()
        if count > MODULES_PER_FOLDER.get(folder, DEFAULT_MODULES_PER_FOLDER)
    ]


def filled_inits(sources: Sources) -> list[str]:
    """Find every __init__.py that is not empty."""
    return [f"{path} is not empty" for path, s in sources.items() if "__init__" in path and s]


def long_signatures(sources: Sources) -> list[str]:
    """Find functions and methods with more than PARAMETERS parameters; self does not count."""
    faults = []
    for path, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            args = node.args
            names = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
            count = sum(arg is not None and arg.arg not in ("self", "cls") for arg in names)
            if count > PARAMETERS:
                faults.append(f"{path}:{node.lineno}: {node.name} has {count} parameters")
    return faults


def early_report_imports(sources: Sources) -> list[str]:
    """Find imports outside utils/report that load the page writer before a page is written."""
    return [
        f"{path}:{line}: {name} is imported at module level"
        for path, source in sources.items()
        if not path.startswith("utils/report/")
        for name, line, at_import in imports_of(source)
        if at_import and any(f"{name}.".startswith(f"{module}.") for module in REPORT_ONLY)
    ]


def scripts_without_startup(sources: Sources) -> list[str]:
    """Find scripts that import anything but the standard library before `utils.startup`."""
    faults = []
    for path, source in sources.items():
        names = [name for name, _, _ in imports_of(source)]
        slow = [n for n in names if n.partition(".")[0] not in sys.stdlib_module_names]
        if '__name__ == "__main__"' in source and slow[:1] != ["utils.startup"]:
            faults.append(f"{path} does not import utils.startup first")
    return faults


Check = Callable[[Sources], list[str]]
CHECKS: tuple[Check, ...] = (
    upward_imports,
    import_cycles,
    crowded_folders,
    filled_inits,
    long_signatures,
    early_report_imports,
    scripts_without_startup,
)


@pytest.fixture(scope="module")
def sources() -> Sources:
    """Every Python file of the project but its tests."""
    folders = ("benchmarks", "datasets", "models", "tools", "utils")
    files = [*PROJECT.glob("*.py")]
    files += [path for folder in folders for path in (PROJECT / folder).rglob("*.py")]
    assert len(files) > 50
    return {path.relative_to(PROJECT).as_posix(): path.read_text("utf-8") for path in files}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_project_has_no(check, sources):
    assert check(sources) == []


@pytest.mark.parametrize(
    ("check", "path", "source"),
    [
        (upward_imports, "utils/log.py", "from utils.results.folder import ResultFolder"),
        (upward_imports, "utils/log.py", "import models.winclip"),
        (upward_imports, "utils/results/folder.py", "def f():\n    from utils.run import settings"),
        (upward_imports, "utils/results/folder.py", "from utils import report"),
        (upward_imports, "utils/experiment/plan.py", "import run_winclip"),
        (upward_imports, "utils/experiment/plan.py", "from tools.figure import main"),
        (upward_imports, "models/clip/weights.py", "from datasets.splits import Sample"),
        (upward_imports, "models/clip/weights.py", "from datasets.render import surface"),
        (upward_imports, "datasets/images.py", "class C:\n    import models.windows"),
        (upward_imports, "datasets/render/surface.py", "from datasets.splits import Sample"),
        (filled_inits, "models/__init__.py", "from models.winclip import zero_shot"),
        (long_signatures, "models/a.py", "def f(a, b, c, d, *e, f, **g): ..."),
        (long_signatures, "models/a.py", "class C:\n  async def f(self, a, b, c, d, e, f, g): ..."),
        (
            early_report_imports,
            "utils/experiment/plan.py",
            "from utils.report.page import write_report",
        ),
        (
            early_report_imports,
            "utils/experiment/plan.py",
            "if True:\n    from utils.report import charts",
        ),
        (early_report_imports, "run_demo.py", "import jinja2"),
        (
            scripts_without_startup,
            "tools/a.py",
            'import torch\nimport utils.startup\nif __name__ == "__main__":\n    main()',
        ),
    ],
)
def test_a_planted_violation_is_found(check, path, source):
    assert len(check({path: source})) == 1


@pytest.mark.parametrize(
    ("lower", "upper", "planted"),
    [
        ("features.stores", "features.find", "from utils.features.find import find_features"),
        ("results.coco", "results.defects", "import utils.results.defects"),
        ("run.leave_one_out", "run.inference", "if TYPE_CHECKING:\n    import utils.run.inference"),
        ("distributed.context", "distributed.join", "def f():\n    import utils.distributed.join"),
    ],
)
def test_a_planted_cycle_is_found(sources, lower, upper, planted):
    path = f"utils/{lower.replace('.', '/')}.py"
    planted_sources = sources | {path: f"{sources[path]}\n{planted}\n"}
    (fault,) = set(import_cycles(planted_sources)) - set(import_cycles(sources))
    assert {f"utils.{lower}", f"utils.{upper}"} <= {*fault.split()}


@pytest.mark.parametrize(
    ("folder", "allowed"), [("utils/run", 9), ("utils", 9), ("models", 12), ("datasets", 14)]
)
def test_a_folder_with_one_module_too_many_is_found(folder, allowed):
    full = {f"{folder}/m{index}.py": "" for index in range(allowed)} | {f"{folder}/__init__.py": ""}
    assert crowded_folders(full) == []
    assert crowded_folders(full | {f"{folder}/more.py": ""}) == [
        f"{folder}/: {allowed + 1} modules"
    ]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("run_demo.py", "from datasets.render import catalogue\nimport utils.run.benchmark"),
        ("tools/figure.py", "from benchmarks.peers import anomalib_winclip"),
        ("utils/evaluation/curves.py", "from models.windows import window_indices\nimport torch"),
        ("utils/experiment/plan.py", "def f():\n    from utils.report.page import write_report"),
        ("utils/experiment/plan.py", "from utils.report.data import category_data"),
        ("utils/report/page.py", "import jinja2\nfrom utils.report import charts"),
        ("datasets/demo.py", "from datasets.render import catalogue"),
        ("utils/log.py", "class C:\n    def f(self, a, b, c, d, e, f): ..."),
        ("models/__init__.py", ""),
    ],
)
def test_an_allowed_source_passes(path, source):
    assert [fault for check in CHECKS for fault in check({path: source})] == []


def test_loading_the_runners_loads_nothing_that_few_runs_need_and_uses_no_network():
    code = "import socket, sys; socket.getaddrinfo = socket.socket.connect = None; "
    code += "import run_demo, run_winclip; print(*sys.modules)"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=True)
    modules = done.stdout.split()
    assert "models.winclip" in modules
    late = (
        *("utils.report.page", "utils.report.charts", "datasets.render", "datasets.custom"),
        *("models.anomalyclip", "models.inctrl", "models.clip.checkpoints", "models.clip.int8"),
        *("models.leave_one_out", "utils.features.store", "utils.features.kept"),
        "utils.distributed.torchrun",
    )
    assert [name for name in modules if name.startswith(late)] == []


def test_comparing_results_does_not_load_torch():
    code = "import sys, tools.compare, utils.report.page; print('torch' in sys.modules)"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
