"""ngram-hash: fixed numbers on every machine, near for near texts, and nothing fitted. Also raw-vector."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
import zlib

import numpy as np
import pytest

from mmbal_cli.encode import get_encoder
from mmbal_cli.media.text import PAIR

PLAIN, PAIRED = 120102843, 461651259  # checksums of "the food" and of it as a pair with "was grim"


def encode(text, **params):
    return get_encoder("ngram-hash", "text", **params).sample(text, {})


def test_it_is_the_plain_computation():
    words = ["the", "cat", ",", "naïve", "!"]
    counts = np.zeros(2048)

    def add(code, weight):
        counts[(code >> 1) % 2048] += weight if code & 1 else -weight

    for word in words:
        add(zlib.crc32(word.encode()), 1)
    data = (" " + " ".join(words) + " ").encode()
    for length in (3, 4, 5):
        for start in range(len(data) - length + 1):
            code = 0
            for byte in data[start : start + length]:
                code = (code * 1099511628211 + byte + length) % 2**64
            code = (code ^ code >> 29) * 0xBF58476D1CE4E5B9 % 2**64
            add(code ^ code >> 32, 0.5)
    counts = np.sign(counts) * np.sqrt(np.abs(counts))
    found = encode("The CAT, naïve!")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, counts / np.linalg.norm(counts), atol=1e-7)


def test_numbers_do_not_depend_on_the_salt_of_the_process():
    program = (
        "from mmbal_cli.encode import get_encoder; import zlib;"
        "print(zlib.crc32(get_encoder('', 'text').sample('a fixed text, hashed', {}).tobytes()))"
    )
    said = {
        subprocess.check_output([sys.executable, "-c", program], env={"PYTHONHASHSEED": seed, "PATH": ""})
        for seed in ("1", "2")
    }
    assert said == {f"{zlib.crc32(encode('a fixed text, hashed').tobytes())}\n".encode()}


def test_length_is_one_and_an_empty_text_is_zero():
    for text in ("a", "two words", "x" * 5000, "🎬"):
        assert np.linalg.norm(encode(text)) == pytest.approx(1, abs=1e-5)
    for text in ("", " \n\t"):
        assert encode(text).shape == (2048,)
        assert abs(encode(text)).max() <= 1


def test_near_texts_are_nearer_than_far_ones():
    base = encode("the actor speaks slowly and looks very sad")
    near = encode("the actors speak slow, and look sad")
    far = encode("quarterly revenue exceeded all forecasts")
    assert base @ near > 0.4
    assert abs(base @ far) < 0.15


def test_case_and_the_form_of_accents_do_not_matter():
    assert encode("Größe").tobytes() == encode(unicodedata.normalize("NFD", "größe")).tobytes()
    assert encode("ＡＢＣ").tobytes() == encode("abc").tobytes()


def test_the_order_of_words_matters_little_and_their_letters_much():
    assert encode("red green blue") @ encode("blue green red") > 0.6
    assert encode("red") @ encode("der") < 0.3


def test_any_text_is_finite():
    for text in ("\x00\x1b[31m", "\ud800 lone surrogate", "ﷺ" * 100, "a\u0301" * 50):
        assert np.isfinite(encode(text)).all()


def test_segments_are_runs_of_words():
    found = encode("one two three four five", segments=2)
    np.testing.assert_array_equal(found, [encode("one two"), encode("three four five")])
    assert encode("one", segments=4).shape == (4, 2048)


def test_a_pair_tells_its_texts_apart_and_leaves_plain_texts_alone():
    pair = encode(f"the food{PAIR}was grim")
    assert pair.shape == (2048,)
    assert np.linalg.norm(pair) == pytest.approx(1, abs=1e-5)
    assert abs(pair @ encode(f"was grim{PAIR}the food")) < 0.15  # the roles, not the words
    assert pair @ encode("the food") > 0.4
    assert abs(pair @ encode("was grim")) < 0.15
    assert pair @ encode(f"the drinks{PAIR}was grim") > 0.3  # of the second text, words count as among themselves
    np.testing.assert_array_equal(encode(f"the food{PAIR}"), encode("the food"))
    assert encode(f"{PAIR}the food") @ encode("the food") < 0.15
    assert zlib.crc32(encode("the food").tobytes()) == PLAIN
    assert zlib.crc32(pair.tobytes()) == PAIRED


def test_the_second_text_of_a_pair_is_whole_in_each_segment():
    found = encode(f"one two three four{PAIR}target", segments=2)
    np.testing.assert_array_equal(found, [encode(f"one two{PAIR}target"), encode(f"three four{PAIR}target")])


def test_raw_vector_is_the_identity():
    encoder = get_encoder("", "vector")
    assert encoder.sample(np.array([1, 2.5]), {}).tolist() == [1, 2.5]
    features, mask = encoder.batch([np.ones((3, 2)), np.zeros((3, 2))])
    assert (features.shape, features.dtype, mask.shape) == ((2, 3, 2), np.float32, (2, 3))
    assert encoder.spec() == {"name": "raw-vector", "version": 1, "kind": "vector", "params": {}}
