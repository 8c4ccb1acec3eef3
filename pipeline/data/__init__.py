"""Files -> Arrow batches -> encoded columns -> shuffled lanes -> Batch; each stage one file, no Python per row."""
