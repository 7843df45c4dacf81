"""This package turns files of the five modalities into arrays and back: text str, pictures uint8
[H, W, 3], sounds float32 [T] at 16 kHz, videos uint8 [17, 128, 128, 3], shapes uint8
[64, 64, 64, 4].

`reading.py` is the one way in: it detects a file's format by its bytes (`formats.py`), never by its
name, and lets its modality's module decode it. `writing.py` is the one way out, by a name's ending.
`text.py`, `image.py`, `audio.py`, `video.py` and `mesh.py` each decode and encode one modality. A
file that is too large (`limits.py`), damaged or empty raises MediaError, before it is decoded if
possible. The package knows no codec and no model.
"""
