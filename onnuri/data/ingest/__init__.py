"""This package turns real media into a table to train on: folders, JSON lines, Parquet files and
WebDataset tars go in, two Lance datasets come out.

`sources.py` reads PATH as items, `prepare.py` checks and cleans an item's files, `duplicates.py`
finds what is there already, `table.py` holds the datasets, `run.py` drives them over worker
processes. `forget.py` removes a medium for good and `inspect.py` writes a page about a table.

The package knows no codec, no model and no training.
"""
