"""Compressed answers: which requests ask for them, and that they are read by the standard library."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.compression import compress, response_encoding


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("x-gzip", "gzip"),
        ("GZIP", "gzip"),
        ("deflate", "deflate"),
        ("gzip;q=0", None),
        ("gzip;q=0.5, identity;q=0.1", "gzip"),
        ("gzip, deflate", None),
        ("gzip, deflate, br, zstd", None),
        ("br", None),
        ("*", None),
        ("identity", None),
        ("identity;q=0", None),
        ("identity;q=0, gzip, deflate", "gzip"),
        ("identity;q=0, gzip;q=0.2, deflate;q=0.4", "deflate"),
        ("*;q=0, gzip", "gzip"),
        ("*;q=0, br", None),
        ("gzip;q=much", None),
    ],
)
def test_encoding_is_used_where_one_is_named_or_identity_is_refused(accepted: str, encoding: str | None) -> None:
    assert response_encoding(accepted) == encoding


@given(st.text(st.characters(max_codepoint=255)))
def test_every_header_is_read(accepted: str) -> None:
    assert response_encoding(accepted) in (None, "gzip", "deflate")


@given(st.binary(max_size=1000))
def test_compressed_bodies_are_those_of_the_standard_library(body: bytes) -> None:
    assert gzip.decompress(compress(body, "gzip")) == body
    assert zlib.decompress(compress(body, "deflate")) == body
