"""Daily retraining: one day's steps, its ledger, its lease, its checks."""
