"""Runs and days in the terminal, from their own records. No torch."""
