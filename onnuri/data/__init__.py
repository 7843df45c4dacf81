"""This package turns media into tables of codes, tables into sequences, and sequences into
batches."""
