"""This package makes collages: one to four cut-out pictures on a ground, and sentences on them.

    scene.py    what a collage shows, and random scenes
    words.py    sentences about a scene, in two languages, and scenes from sentences
    render.py   pixels of a scene
    store.py    codes of many collages, made once

It knows no model. A codec is given to the store.
"""
