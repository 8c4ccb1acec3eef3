"""The training around the model: process group, step, loop, optimizers, checkpoints."""
