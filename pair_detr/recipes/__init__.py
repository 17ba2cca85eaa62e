"""Recipes for one's own data: a config out of what the data and the machine are."""
