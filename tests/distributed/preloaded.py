"""Imports all that a rank and a launcher do: once, in the server that both are forked from."""

import contextlib
import importlib
import pkgutil

from tests.distributed.ranks import OWN

LIBRARIES = [
    "torchrec",
    "torch.distributed.run",
    "torch.distributed.checkpoint._fsspec_filesystem",
    "torch.distributed.elastic.rendezvous.c10d_rendezvous_backend",
    "torch.profiler",
    "pyarrow.compute",
    "pyarrow.parquet",
    "pandas",  # which pyarrow imports where it is installed, as it is for tests
    "fsspec.implementations.local",
    "pydantic",
    "yaml",
    "wandb",
    "pytest",
    "scipy.stats",
    "matplotlib.figure",
    "matplotlib.backends.backend_svg",
    "jinja2",
]

for name in LIBRARIES:
    importlib.import_module(name)
for package in map(importlib.import_module, OWN):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        # a broken module breaks again where it is used, and says so there; here it would end the server without a word
        with contextlib.suppress(Exception):
            importlib.import_module(module.name)
