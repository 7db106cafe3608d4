"""Make the simulation importable: tests share code through conftest alone."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_FOLDER = Path(__file__).with_name("simulation")
_SPEC = spec_from_file_location(
    "simulation", _FOLDER / "__init__.py", submodule_search_locations=[str(_FOLDER)]
)
assert _SPEC is not None
assert _SPEC.loader is not None
sys.modules["simulation"] = module_from_spec(_SPEC)
_SPEC.loader.exec_module(sys.modules["simulation"])
