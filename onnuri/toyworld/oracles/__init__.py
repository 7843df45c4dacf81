"""This package holds the toy world's oracles, which judge answers and share no weights with the
model, and their reports."""
