"""What a GPU budget can train, how and by when, with error bars: architecture, layout and cluster
in, figures out.

Knows no data and no weights; recipes and the real training step come from above.
"""
