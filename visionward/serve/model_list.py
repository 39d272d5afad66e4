"""The models of ``GET /v1/models``: one guard under its own name and its aliases."""

from dataclasses import dataclass
from typing import Any

from visionward.serve.api_error import ApiError

# The names that OpenAI's clients send to /v1/moderations of themselves.
_MODERATION_NAMES = ("omni-moderation-", "text-moderation-")


@dataclass(frozen=True)
class ModelList:
    """The names of the guard.

    Attributes:
        name: its own: the text file's name without its suffix.
        aliases: further names that clients may use.
        created: seconds since 1970, when it was loaded.
    """

    name: str
    aliases: tuple[str, ...] = ()
    created: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """All names, its own first."""
        return tuple(dict.fromkeys((self.name, *self.aliases)))

    def check(self, name: str) -> None:
        """Check that a request names the guard.

        Raises:
            ApiError: it names another model (status 404).
        """
        if name not in self.names:
            shown = name if len(name) <= 100 else name[:97] + "..."
            raise ApiError(
                404,
                f"the model {shown!r} does not exist here; choose {' or '.join(self.names)}, or start the server with "
                "--alias.",
                param="model",
                code="model_not_found",
            )

    def check_moderation(self, name: str) -> None:
        """The same for moderations, which may also name OpenAI's own models.

        Raises:
            ApiError: it names another model (status 404).
        """
        if not name.startswith(_MODERATION_NAMES):
            self.check(name)

    def entry(self, name: str) -> dict[str, Any]:
        """OpenAI's description of a model.

        Raises:
            ApiError: there is no such model (status 404).
        """
        self.check(name)
        return {"id": name, "object": "model", "created": self.created, "owned_by": "visionward"}
