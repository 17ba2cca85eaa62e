"""Checks of data sets: what is in them, and what is wrong with it."""
