"""The architecture as tables: who may import whom, and how large a module may be.

DESIGN.md draws it; here it is held. An import counts wherever it stands: at the
top, inside a function, or for types alone.
"""

import ast
import itertools
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("jobs", "deeplab", "cluster")
PATHS = sorted(path for name in PACKAGES for path in ROOT.glob(f"{name}/**/*.py"))

LINES = 400
BODY = 50

DOORS = {  # who may import a third-party package; a prefix of the module's name
    "PIL": (
        "jobs.inputs.images",
        "jobs.inputs.resizing",
        "jobs.inputs.truth_images",
        "jobs.preview",
        "jobs.demo",
        "jobs.scene",
        "jobs.outputs.mask_png",
    ),
    "botocore": ("jobs.s3",),
    "click": ("jobs.cli", "jobs.demo"),
    "fsspec": ("jobs.storage",),
    "h5py": ("deeplab.foreign.files",),
    "numpy": ("jobs", "deeplab"),
    "onnxruntime": ("deeplab.export",),
    "pillow_heif": ("jobs.inputs.images",),
    "pyarrow": (
        "jobs.plan",
        "jobs.letters",
        "jobs.conclude",
        "jobs.outputs.levels",
        "jobs.inputs.indexes",
        "jobs.inputs.tables",
        "jobs.inputs.truth_tables",
        "jobs.outputs.masks",
        "jobs.outputs.mask_dataset",
        "jobs.outputs.label_rows",
        "jobs.outputs.mask_source",
        "jobs.outputs.worklist",
        "jobs.outputs.tables",
        "jobs.outputs.score_table",
        "jobs.outputs.recount",
        "jobs.outputs.vectors",
    ),
    "pyogrio": ("jobs.outputs.vectors",),
    "pyproj": ("jobs.outputs.earth",),
    "rasterio": (
        "jobs.inputs.rasters",
        "jobs.inputs.raster",
        "jobs.inputs.area",
        "jobs.outputs",
    ),
    "ray": ("cluster",),
    "s3fs": ("jobs.s3",),
    "aiohttp": ("jobs.s3", "jobs.web"),
    "safetensors": ("deeplab",),
    "shapely": ("jobs.outputs.earth", "jobs.outputs.regions", "jobs.outputs.vectors"),
    "tensorflow": ("deeplab.foreign.files",),
    "torch": ("deeplab", "jobs.demo_bundle"),
    "torchvision": ("deeplab",),
}

DISTRIBUTIONS = {"PIL": "pillow", "pillow_heif": "pillow-heif"}
"""Where a package is not called like what is installed."""

FLOORS = (  # from the ground up: a module imports its own floor and those below
    ("jobs.errors", "jobs.disk", "jobs.patience", "jobs.redact", "jobs.sorting"),
    (
        "jobs.storage",
        "jobs.access",
        "jobs.web",
        "jobs.s3",
        "jobs.shards",
        "jobs.windows",
        "jobs.mosaic",
        "jobs.prefetch",
        "jobs.scene",
    ),
    (
        "jobs.class_choice",
        "jobs.mask_choice",
        "jobs.policy",
        "jobs.sizes",
        "jobs.rates",
        "jobs.spec",
        "jobs.truth",
        "jobs.setting_kinds",
        "jobs.settings",
        "jobs.ledger",
        "jobs.plan",
    ),
    (
        "jobs.job",
        "jobs.bundle_file",
        "jobs.folder",
        "jobs.assembly",
        "jobs.wholes",
        "jobs.letters",
        "jobs.tally",
        "jobs.inputs",
        "jobs.mosaic_survey",
        "jobs.outputs",
        "jobs.preview",
    ),
    (
        "jobs.worker",
        "jobs.gathering",
        "jobs.meter",
        "jobs.progress",
        "jobs.status",
        "jobs.merging",
        "jobs.conclude",
        "jobs.retry",
        "jobs.skipping",
        "jobs.catalog",
        "jobs.evaluation",
    ),
    ("jobs.runner", "jobs.verify", "jobs.clean", "jobs.export"),
    (
        "jobs.engine",
        "jobs.label_job",
        "jobs.map_job",
        "jobs.mosaic_job",
        "jobs.evaluate_job",
    ),
    (
        "jobs.commands",
        "jobs.retry_commands",
        "jobs.config",
        "jobs.bundle_commands",
        "jobs.bundle_text",
    ),
    ("jobs.demo",),
    ("jobs.cli",),
)

LIGHT = (
    "jobs.cli",
    "jobs.bundle_commands",
    "jobs.commands",
    "jobs.runner",
    "jobs.worker",
    "jobs.label_job",
    "jobs.evaluate_job",
)
"""What the driver imports at once, which must bring neither torch nor Ray."""


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path): path for path in PATHS}
OURS = [name for name in NAMES if name.startswith("jobs.")]


def tree_of(name):
    return ast.parse(NAMES[name].read_text())


def imports_of(tree):
    """Every module that is imported, with its dots."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = inner & NAMES.keys()
            found |= modules or {node.module}
    return found


def is_for_types(node):
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imports_at_start(name):
    """What is imported together with the module: not later, not for types."""
    body = [node for node in tree_of(name).body if not is_for_types(node)]
    top = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    return imports_of(ast.Module(body=top, type_ignores=[]))


def is_below(name, prefix):
    """Whether a prefix names a module, its package, or a family like ``scene_*``."""
    return re.match(rf"{re.escape(prefix)}(?![a-z0-9])", name.replace("scenes", "scene"))


def floor_of(name):
    """Number of the floor of one of ours; the longest prefix wins."""
    fitting = [
        (len(prefix), number)
        for number, floor in enumerate(FLOORS)
        for prefix in floor
        if is_below(name, prefix)
    ]
    assert fitting, f"{name} has no floor: give it one in the table"
    return max(fitting)[1]


def third_party(name):
    tops = {module.split(".")[0] for module in imports_of(tree_of(name))}
    return tops - sys.stdlib_module_names - set(PACKAGES)


def test_there_is_something_to_check():
    assert len(OURS) > 20
    assert {
        "jobs.cli",
        "jobs.inputs.images",
        "cluster.pool",
        "deeplab.model",
    } <= NAMES.keys()


@pytest.mark.parametrize("name", NAMES)
def test_third_parties_come_in_by_their_door(name):
    for package in third_party(name):
        doors = DOORS.get(package)
        assert doors, f"{package} has no door: give it one in the table"
        assert any(is_below(name, door) for door in doors), f"{name} imports {package}"


@pytest.mark.parametrize("package", DOORS)
def test_no_door_leads_nowhere(package):
    for door in DOORS[package]:
        users = [name for name in NAMES if is_below(name, door)]
        assert any(package in third_party(name) for name in users), (
            f"{door} has no {package}"
        )


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("jobs")])
def test_the_ground_knows_nothing_of_what_stands_on_it(name):
    own = name.split(".")[0]
    for module in imports_of(tree_of(name)):
        assert module.split(".")[0] not in set(PACKAGES) - {own}, f"{name} imports {module}"


@pytest.mark.parametrize("name", OURS)
def test_no_arrow_runs_back_up(name):
    for module in imports_of(tree_of(name)):
        if module.startswith("jobs."):
            assert floor_of(module) <= floor_of(name), f"{name} imports {module}"


def test_nothing_goes_round_in_a_circle():
    graph = {name: imports_at_start(name) & NAMES.keys() for name in NAMES}
    done, open_ = set(), []

    def visit(name):
        assert name not in open_, " -> ".join([*open_, name])
        if name in done:
            return
        open_.append(name)
        for module in sorted(graph[name]):
            visit(module)
        done.add(open_.pop())

    for name in graph:
        visit(name)


def test_the_engine_knows_no_job():
    for name in ("jobs.runner", "jobs.worker", "jobs.job", "jobs.engine"):
        for module in imports_of(tree_of(name)):
            assert not re.fullmatch(r"jobs\.\w+_job", module), f"{name} imports {module}"


def test_only_the_engine_and_what_starts_it_know_the_cluster():
    users = {
        (name, module)
        for name in OURS
        for module in imports_of(tree_of(name))
        if module.startswith("cluster")
    }
    with_ray = {
        name for name, module in users if module in {"cluster.connect", "cluster.pool"}
    }
    assert with_ray == {"jobs.engine"}
    others = {"jobs.commands", "jobs.runner", "jobs.worker"}
    assert {name for name, _ in users} == {"jobs.engine", *others}


@pytest.mark.parametrize("name", LIGHT)
def test_the_driver_is_light(name):
    """Follow every import that happens at once: none of them is torch or Ray."""
    seen, left = set(), {name}
    while left:
        module = left.pop()
        seen.add(module)
        if module in NAMES:
            parents = {
                ".".join(module.split(".")[:i]) for i in range(1, module.count(".") + 1)
            }
            left |= (imports_at_start(module) | parents) - seen
    assert {module.split(".")[0] for module in seen}.isdisjoint({"torch", "ray"})


def test_the_command_line_imports_click_alone():
    tops = {module.split(".")[0] for module in imports_at_start("jobs.cli")}
    assert tops - sys.stdlib_module_names == {"click", "jobs"}


@pytest.mark.parametrize("name", NAMES)
def test_modules_stay_small(name):
    lines = len(NAMES[name].read_text().splitlines())
    assert lines <= LINES, f"{name} has {lines} lines"


def functions():
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    for name in NAMES:
        for node in ast.walk(tree_of(name)):
            if isinstance(node, kinds):
                yield f"{name}.{node.name}", node


def test_functions_stay_small():
    long = {}
    for name, node in functions():
        body = node.body
        documented = ast.get_docstring(node) is not None and len(body) > 1
        first = body[1] if documented else body[0]
        lines = node.end_lineno - first.lineno + 1
        if lines > BODY:
            long[name] = lines
    assert long == {}


def declared(requirements):
    return {re.match(r"[A-Za-z0-9._-]+", one)[0].lower() for one in requirements}


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_what_is_imported_is_declared_and_nothing_else():
    used = set().union(*(third_party(name) for name in NAMES))
    known = {DISTRIBUTIONS.get(package, package) for package in used}
    always = declared(PROJECT["project"]["dependencies"])
    extras = PROJECT["project"]["optional-dependencies"].values()
    assert always <= known <= always.union(*map(declared, extras))


def test_every_requirement_has_a_range():
    for one in PROJECT["project"]["dependencies"]:
        assert re.search(r">=\d", one), f"{one} has no lower bound"


TESTS = sorted(
    path for path in (ROOT / "tests").glob("**/*.py") if "benchmarks" not in path.parts
)


def test_what_the_tests_import_is_declared():
    groups = PROJECT["dependency-groups"]["dev"] + PROJECT["project"]["dependencies"]
    names = {name.replace("-", "_") for name in declared(groups)}
    names |= {"PIL", *PACKAGES}
    names |= {path.parent.name for path in TESTS if path.name == "__init__.py"}
    names |= {path.stem for path in TESTS if not path.stem.startswith("test_")}
    for path, tree in ((path, ast.parse(path.read_text())) for path in TESTS):
        tops = {module.split(".")[0] for module in imports_of(tree)}
        unknown = tops - sys.stdlib_module_names - names
        assert unknown == set(), f"{path.name} imports {unknown}"


def test_the_tables_have_no_double():
    prefixes = list(itertools.chain.from_iterable(FLOORS))
    assert len(prefixes) == len(set(prefixes))
