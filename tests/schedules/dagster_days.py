"""Runs days of the definitions by Dagster's own engine, in its environment: python dagster_days.py DAY ...

Prints what came of each as JSON: {"runs": [{"day", "success", "gate": passed or null, "reasons", "tries"}], "errors"}.
"""

import json
import sys
from pathlib import Path

import dagster as dg
from dagster._core.definitions.module_loaders.load_defs_from_module import find_objects_in_module_of_types  # noqa: F401

if __name__ == "__main__":
    pass
