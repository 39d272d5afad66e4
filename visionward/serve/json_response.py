"""JSON responses in ASCII: a lone surrogate, which a client may send, has no UTF-8 form."""

import json
from typing import Any

from starlette.responses import JSONResponse


class AsciiJsonResponse(JSONResponse):
    """A JSON response."""

    def render(self, content: Any) -> bytes:
        """The body. Numbers that are not finite are an error."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")
