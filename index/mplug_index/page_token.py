"""Page tokens of `scroll`: where a walk stands, of which collection and filter.

A walk goes by id, not by sequence number: a point that is replaced while someone walks keeps its place, so
that it comes once. Points present throughout come exactly once, whatever is written meanwhile.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json

from mplug_index.errors import InvalidPageTokenError

_CHECKSUM_BYTES = 8


def make_token(collection: int, filter_digest: str, last_id: str) -> str:
    """The token for the page after `last_id`."""
    body = json.dumps([collection, filter_digest, last_id], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_checksum(body) + body).decode("ascii")


def read_token(token: str, collection: int, filter_digest: str) -> str:
    """The id after which the page begins; "" for the empty token, the first page.

    Raises:
        InvalidPageTokenError: The token is damaged, or of another collection or filter.
    """
    if token == "":
        return ""
    try:
        data = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError):
        raise _damaged() from None
    checksum, body = data[:_CHECKSUM_BYTES], data[_CHECKSUM_BYTES:]
    if not body or checksum != _checksum(body):
        raise _damaged()
    its_collection, its_digest, last_id = json.loads(body)
    if its_collection != collection or its_digest != filter_digest:
        text = "the page token is of another collection or filter; begin again without one"
        raise InvalidPageTokenError(text, field="page_token")
    return str(last_id)


def _damaged() -> InvalidPageTokenError:
    text = "the page token is damaged; pass next_page_token as it came, or none"
    return InvalidPageTokenError(text, field="page_token")


def _checksum(body: bytes) -> bytes:
    # Against damage and other databases' tokens, not against forgery: a token opens nothing that is closed.
    return hashlib.sha256(b"mplug-index page 1" + body).digest()[:_CHECKSUM_BYTES]
