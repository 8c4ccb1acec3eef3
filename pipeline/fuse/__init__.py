"""Weights of a fused score, tuned on held-out days for how well it orders users' lists."""
