"""How an answer is written, and in which of the types that a client accepts."""

import html
import json
import re
from functools import lru_cache

from sync_job.standin.contract import INSTANCE, JSON_TYPES, MODELS, XML_TYPES, Answer

MESSAGE_LENGTH = 100  # of the procedure's output parameter


@lru_cache(maxsize=64)
def negotiate(accept: str) -> str:
    """Return the answer's type for an `Accept` header: the first of the highest quality, else application/json."""
    ranges: list[tuple[float, str]] = []
    for part in accept.lower().split(","):
        media, _, parameters = part.partition(";")
        found = re.search(r"(?:^|;)\s*q\s*=\s*([0-9.]+)", parameters)
        try:
            quality = float(found[1]) if found else 1.0
        except ValueError:
            quality = 0.0
        if quality > 0:
            ranges.append((-quality, media.strip()))
    for _, media in sorted(ranges, key=lambda entry: entry[0]):
        for offered in (*JSON_TYPES, *XML_TYPES):
            if media in {"*/*", offered, offered.split("/")[0] + "/*"}:
                return offered
    return JSON_TYPES[0]


@lru_cache(maxsize=256)
def write(answer: Answer, media: str) -> bytes:
    """Return the bytes of *answer* as the platform writes them in *media*; a message ends after 100 characters."""
    message = answer.message[:MESSAGE_LENGTH]
    if media in XML_TYPES:
        return (
            f'<ClientUpdateCommunicationResponse xmlns:i="{INSTANCE}" xmlns="{MODELS}">'
            f"<ErrorCode>{answer.error_code}</ErrorCode><Message>{html.escape(message, quote=False)}</Message>"
            "</ClientUpdateCommunicationResponse>"
        ).encode()
    return json.dumps(
        {"ErrorCode": answer.error_code, "Message": message}, ensure_ascii=False, separators=(",", ":")
    ).encode()
