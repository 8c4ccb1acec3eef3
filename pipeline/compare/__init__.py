"""Sides x seeds trained on one log: who gained, who paid. The jobs themselves are run as a person runs them."""
