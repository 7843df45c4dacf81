"""This package spreads a model over ranks: device meshes, the application of a `ParallelConfig`,
and the model as a training step calls it.

It knows the planner's layouts and transformers' models; no data, no optimizer and no file.
"""
