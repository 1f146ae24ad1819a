"""Forms with files, `multipart/form-data` of RFC 7578, in a body that was read whole."""

from __future__ import annotations

from dataclasses import dataclass

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from serving.errors import BadRequestError

_MAX_BOUNDARY = 70
"""The most letters of a boundary (RFC 2046, section 5.1.1)."""


@dataclass(frozen=True)
class FormPart:
    """One field of a form. A file has a `file_name`, which may be empty."""

    name: str
    file_name: str | None
    content: bytes


def form_parts(content_type: str, body: bytes, max_parts: int) -> list[FormPart]:
    """Return the fields of the form `body` in their order; `content_type` is the header of the request.

    Raises:
        BadRequestError: the body is not a whole form, or it has more than `max_parts` fields.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not 0 < len(boundary) <= _MAX_BOUNDARY:
        raise BadRequestError("the form cannot be read: its Content-Type has no boundary of 1 to 70 letters")
    reader = _Reader(max_parts)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": reader.begin,
                "on_header_field": reader.header_name,
                "on_header_value": reader.header_value,
                "on_header_end": reader.header_end,
                "on_part_data": reader.data,
                "on_part_end": reader.end,
                "on_end": reader.finish,
            },
        )
        parser.write(body)
    except FormParserError as error:
        raise BadRequestError(f"the form cannot be read: {error}") from error
    if not reader.is_whole:
        raise BadRequestError("the form cannot be read: it ends before its last boundary")
    return reader.parts


class _Reader:
    """Collects the parts of a form from the calls of the parser."""

    def __init__(self, max_parts: int) -> None:
        self.parts: list[FormPart] = []
        self.is_whole = False
        self._max_parts = max_parts
        self._name, self._value, self._disposition = b"", b"", b""
        self._content: list[bytes] = []

    def begin(self) -> None:
        if len(self.parts) == self._max_parts:
            raise BadRequestError(f"the form has more than {self._max_parts} fields")
        self._disposition, self._content = b"", []

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name, self._value = b"", b""

    def data(self, data: bytes, start: int, end: int) -> None:
        self._content.append(data[start:end])

    def end(self) -> None:
        options = parse_options_header(self._disposition)[1]
        if b"name" not in options:
            raise BadRequestError("the form cannot be read: a field has no name in its Content-Disposition")
        name, file_name = options[b"name"].decode("utf-8", "replace"), options.get(b"filename")
        decoded = None if file_name is None else file_name.decode("utf-8", "replace")
        self.parts.append(FormPart(name, decoded, b"".join(self._content)))

    def finish(self) -> None:
        self.is_whole = True
