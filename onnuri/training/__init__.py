"""Training: one loop for codecs and model. Knows no modality."""
