"""The team's wandb workspace as code."""
