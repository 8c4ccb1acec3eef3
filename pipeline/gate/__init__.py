"""Challenger against champion on the same held-out rows: a task that pays blocks."""
