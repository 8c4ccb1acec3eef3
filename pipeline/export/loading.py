"""A bundle's own scorer, loaded from the bundle: what is served is what the bundle brings, once it is verified."""

import hashlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from pipeline.export.runtime.errors import BundleError
from pipeline.export.runtime.integrity import CHECKSUMS, checked, digest
from schemas.errors import InputError

SCORER = "scorer"


def load_bundle(folder: str, engine: str = "torch", threads: int | None = None) -> Any:
    """The Bundle. Raises InputError, naming the file, where it is not as it was exported."""
    path = Path(folder)
    try:
        checked(path)  # before any code of the bundle runs
        return scorer(path).Bundle(path, engine, threads)
    except ValueError as error:
        if isinstance(error, BundleError) or type(error).__name__ == BundleError.__name__:  # the bundle's own class
            raise InputError(str(error)) from error
        raise


def scorer(folder: Path) -> Any:
    """The bundle's package `scorer`, under a name that no other bundle's has."""
    start = (folder / SCORER / "__init__.py").resolve()
    name = "_scorer_" + hashlib.sha256(f"{start} {digest(folder / CHECKSUMS)}".encode()).hexdigest()[:16]
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, start, submodule_search_locations=[str(start.parent)])
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
