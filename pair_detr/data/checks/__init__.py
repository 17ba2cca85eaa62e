"""Checks of datasets: what is in them, and what is wrong with it."""
