"""Experiments with the package: each answers a question, with a document in docs/studies/."""
