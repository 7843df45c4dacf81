import subprocess
import sys
import time

import numpy as np

from onnuri.modality import LANGUAGES
from onnuri.toyworld.audio import FRAME, OWN, VARIANTS, Voice, sample_voice, speak, speak_aligned
from onnuri.toyworld.scene import generator, sample_scene
from onnuri.toyworld.text import caption


def test_speech_is_the_same_every_time_whatever_was_said_before():
    first = speak("A small red sphere circles.", "en", Voice())
    speak("큰 파란 별이 튄다", "ko", Voice(variant="f2", pitch=60))
    assert (speak("A small red sphere circles.", "en", Voice()) == first).all()


def test_speech_is_the_same_in_every_process():
    """Started at another second: espeak-ng's random numbers would begin with the time of day."""
    program = (
        "import hashlib; from onnuri.toyworld.audio import speak, Voice; from onnuri.toyworld.scene import *; "
        "from onnuri.toyworld.text import caption\n"
        "made = [speak(caption(sample_scene(k, 'seen'), x, generator('seen', k)), x, Voice(variant=v)).tobytes()"
        " for k in range(6) for x in ('ko', 'en') for v in ('', 'f2')]\n"
        "print(hashlib.sha256(b''.join(made)).hexdigest())"
    )
    seen = set()
    for pause in (0, 1.1):
        time.sleep(pause)
        seen.add(
            subprocess.run(
                [sys.executable, "-c", program], capture_output=True, text=True, check=True
            ).stdout
        )
    assert len(seen) == 1


def test_speech_has_whole_frames_a_set_level_and_no_clipping():
    sound = speak("큰 파란 별이 튄다", "ko", Voice())
    assert (
        sound.dtype == np.float32
        and len(sound) % FRAME == 0
        and 0.02 < np.sqrt((sound**2).mean()) < 0.2
    )
    assert np.abs(sound).max() <= 1


def test_voices_rates_and_pitches_differ():
    assert len(VARIANTS) >= 3
    drawn = {sample_voice(np.random.default_rng(k)) for k in range(60)}
    assert len({v.variant for v in drawn}) == len(VARIANTS)
    slow, fast = (speak("큰 파란 별이 튄다", "ko", Voice(rate_wpm=r)) for r in (220, 280))
    assert len(slow) > len(fast)
    sounds = [speak("큰 파란 별이 튄다", "ko", Voice(variant=v)) for v in VARIANTS]
    spectra = [np.abs(np.fft.rfft(s, 65536)) for s in sounds]
    assert min(np.corrcoef(a, b)[0, 1] < 0.95 for i, a in enumerate(spectra) for b in spectra[:i])


def test_aligned_speech_gives_every_word_whole_frames_and_lasts_as_long():
    for seed in range(30):
        for language in LANGUAGES:
            said = caption(sample_scene(seed), language, generator("train", seed))
            sound, frames_per_word = speak_aligned(said, language, OWN)
            assert (
                len(frames_per_word) == len(said.split())
                and sum(frames_per_word) * FRAME == len(sound)
                and min(frames_per_word) >= 0
            )
            assert (
                abs(len(sound) - len(speak(said, language, OWN)))
                <= (len(frames_per_word) / 2 + 2) * FRAME
            )
            assert 0.02 < np.sqrt((sound**2).mean()) < 0.2 and np.abs(sound).max() <= 1


def test_longer_words_have_more_frames():
    _, (star, cylinder) = speak_aligned("별 원기둥", "ko", OWN)
    assert cylinder > star
    _, frames_per_word = speak_aligned("yes", "en", OWN)
    assert len(frames_per_word) == 1 and frames_per_word[0] > 4
