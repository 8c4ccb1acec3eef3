"""Scores rows by the bundle that this package lies in: `from scorer import Bundle`. numpy and torch or ONNX Runtime."""

from .bundle import Bundle
from .errors import BundleError, FieldError

__all__ = ["Bundle", "BundleError", "FieldError"]
