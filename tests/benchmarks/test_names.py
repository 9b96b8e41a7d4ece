"""A script's folder comes first on the path: a benchmark named like a module of the standard library would hide it."""

from __future__ import annotations

import sys
from pathlib import Path

PROJECT = Path(__file__).parents[2]


def test_no_script_hides_a_module_of_the_standard_library() -> None:
    scripts = [*PROJECT.glob("benchmarks/*/*.py"), *PROJECT.glob("examples/*/*.py")]
    assert scripts and not [str(script) for script in scripts if script.stem in sys.stdlib_module_names]
