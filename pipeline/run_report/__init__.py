"""What runs and days of retraining came to, as one page: from their own records, never from wandb."""
