"""Embedding tables from the features, their sharding over ranks, their fused optimizer, their initial values."""
