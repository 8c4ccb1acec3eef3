"""Scores rows by the bundle that this package lies in: `from scorer import Bundle`. torch and numpy alone."""

from .bundle import Bundle
from .errors import BundleError, FieldError

__all__ = ["Bundle", "BundleError", "FieldError"]
