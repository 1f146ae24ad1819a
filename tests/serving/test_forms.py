"""Forms with files: reading them whole, and refusing broken ones."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import BadRequestError
from serving.forms import FormPart, form_parts

NAMES = st.text(st.characters(codec="utf-8", exclude_characters='\r\n"\\%', exclude_categories=["C"]), min_size=1)


@given(parts=st.lists(st.tuples(NAMES, NAMES, st.binary(max_size=200)), min_size=1, max_size=5))
def test_form_of_another_library_is_read_as_it_was_made(parts: list[tuple[str, str, bytes]]) -> None:
    files = [(name, (file_name, content, "image/png")) for name, file_name, content in parts]
    request = httpx.Request("POST", "http://server", files=files)
    read = form_parts(request.headers["content-type"], request.read(), 5)
    assert read == [FormPart(*part) for part in parts]


@given(cut=st.integers(1, 300), content=st.binary(min_size=100, max_size=100))
def test_form_that_was_cut_is_refused_or_equal(cut: int, content: bytes) -> None:
    request = httpx.Request("POST", "http://server", files={"image": ("a.png", content)})
    whole = request.read()
    try:
        read = form_parts(request.headers["content-type"], whole[:-cut], 5)
    except BadRequestError:
        return
    assert read == [FormPart("image", "a.png", content)]
    assert cut <= 2, "only the line break at the end may be missing"


def test_field_without_a_file_name_is_no_file() -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n'
    assert form_parts("multipart/form-data; boundary=x", body, 1) == [FormPart("a", None, b"1")]
    with pytest.raises(BadRequestError, match="more than 0 fields"):
        form_parts("multipart/form-data; boundary=x", body, 0)
