"""Decoding: token ids in, token ids out. Knows no media."""
