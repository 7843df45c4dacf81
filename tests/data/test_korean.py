"""Particles fit the word before them."""

from onnuri.data.korean import object_particle, subject_particle


def test_particles_fit_the_last_syllable():
    said = {"사과": "를", "종": "을", "빵": "을", "나무": "를", "zip": "를", "": "를"}
    assert {word: object_particle(word) for word in said} == said
    subjects = {"사과": "가", "종": "이", "고양이": "가"}
    assert {word: subject_particle(word) for word in subjects} == subjects
