"""Reads the body of a REST request, which may be compressed."""

from __future__ import annotations

import gzip
import io
import zlib

from werkzeug import exceptions
from werkzeug.wrappers import Request

from tf_triplet.serving.errors import Code, RequestError

# Of the names that HTTP knows, these two are the same.
_GZIP = ("gzip", "x-gzip")


def read(request: Request, max_bytes: int) -> bytes:
    """Reads the body of a request and inflates it if need be.

    Args:
        request: The request. Its header `Content-Encoding` may name gzip.
        max_bytes: Maximum size of the inflated body.

    Returns:
        The bytes that the client compressed.

    Raises:
        RequestError: If the body cannot be read, or is no gzip.
        werkzeug.exceptions.RequestEntityTooLarge: If it is larger than
            `max_bytes`. No more than that is inflated.
        werkzeug.exceptions.UnsupportedMediaType: If it has another encoding.
    """
    # An encoding is applied to the result of the one before.
    names = request.headers.get("Content-Encoding", "").lower().split(",")
    encodings = [name.strip() for name in names]
    encodings = [name for name in encodings if name not in ("", "identity")]
    unknown = [name for name in encodings if name not in _GZIP]
    if unknown or len(encodings) > 1:
        raise exceptions.UnsupportedMediaType(
            f"Content-Encoding must be gzip. Received: {', '.join(encodings)}. "
            "Send the body with gzip, or uncompressed without this header."
        )
    try:
        data = request.get_data()
    except (OSError, ValueError) as error:  # Such as malformed chunks.
        raise _error(f"The body cannot be read: {error}") from error
    return inflate(data, max_bytes) if encodings else data


def inflate(data: bytes, max_bytes: int) -> bytes:
    """Inflates gzip, up to a size.

    Args:
        data: One gzip stream, or several in a row.
        max_bytes: Maximum size of the result.

    Raises:
        RequestError: If the data is no gzip, is damaged or is cut short.
        werkzeug.exceptions.RequestEntityTooLarge: If the result would be
            larger.

    Example:

    >>> import gzip
    >>> inflate(gzip.compress(b"{}"), max_bytes=2)
    b'{}'
    """
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            # One byte more than allowed tells whether there is more.
            inflated = stream.read(max_bytes + 1)
    except EOFError as error:
        raise _error("The body is cut short: its gzip has no end.") from error
    except (OSError, zlib.error) as error:
        raise _error(
            f"The body is not gzip, as Content-Encoding says: {error}"
        ) from error
    if len(inflated) > max_bytes:
        raise exceptions.RequestEntityTooLarge
    return inflated


def _error(text: str) -> RequestError:
    return RequestError(Code.INVALID_ARGUMENT, text)
