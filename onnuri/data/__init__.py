"""Data: media into tables of codes, tables into sequences, sequences into batches."""
