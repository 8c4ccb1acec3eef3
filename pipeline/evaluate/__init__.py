"""A checkpoint's metrics on any days and on slices of their rows, from its predictions."""
