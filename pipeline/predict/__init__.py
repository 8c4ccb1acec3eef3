"""Parquet files -> the same rows scored, a file for each of them."""
