"""What ``classify`` judges: an image, a prompt and a response, or a conversation, from arguments and options."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import click

from visionward.cli.image_and_text import sort_arguments
from visionward.cli.standard_input import DASH, read_bytes, read_text
from visionward.names import SystemTreatment

if TYPE_CHECKING:
    from visionward.runtime.guard.conversation import Conversation

PathOrDash: TypeAlias = Path | Literal["-"] | None


@dataclass(frozen=True)
class ClassifyInput:
    """The input, checked but not read. A dash is standard input.

    Attributes:
        image: an image file.
        prompt: what the user says.
        response: what the assistant answers.
        conversation: a JSON file of messages, instead of the other three.
    """

    image: PathOrDash
    prompt: str | None
    response: str | None
    conversation: PathOrDash

    @classmethod
    def of(
        cls,
        arguments: tuple[str, ...],
        image: PathOrDash,
        prompt: str | None,
        response: str | None,
        conversation: PathOrDash,
    ) -> "ClassifyInput":
        """The input from the arguments without an option, and from the options.

        Raises:
            click.UsageError: if there is nothing to judge, or two arguments or options exclude each other.
        """
        if conversation is not None and (arguments or (image, prompt, response) != (None, None, None)):
            raise click.UsageError("--conversation excludes an image, a prompt and a response")
        path, text = sort_arguments(arguments)
        for option, value, argument in (("--image", image, path), ("--prompt", prompt, text)):
            if value is not None and argument is not None:
                raise click.UsageError(f"{str(argument)!r} and {option} {str(value)!r} exclude each other")
        whole = cls(path or image, prompt if text is None else text, response, conversation)
        whole._check()
        return whole

    def _check(self) -> None:
        values = {
            "--image": self.image,
            "--prompt": self.prompt,
            "--response": self.response,
            "--conversation": self.conversation,
        }
        dashes = [option for option, value in values.items() if value == DASH]
        if len(dashes) > 1:
            raise click.UsageError(f"{' and '.join(dashes)} are all -, but only one can be read from standard input")
        if self.response is not None and self.prompt is None:
            raise click.UsageError("--response needs the --prompt that it answers")
        if all(value is None for value in values.values()):
            raise click.UsageError("there is nothing to judge: give an image, a text, or --conversation")

    def read(self, *, merge_turns: bool, system: SystemTreatment) -> "Conversation":
        """The conversation to judge.

        Args:
            merge_turns: join consecutive messages of one role in a conversation file.
            system: what to do with a system message in a conversation file.

        Raises:
            ConversationError: if standard input or the conversation file cannot be used.
        """
        from visionward.runtime.guard.conversation import Conversation  # noqa: PLC0415 - not needed for --help

        if self.conversation is None:
            return Conversation.from_prompt(
                read_text("--prompt") if self.prompt == DASH else self.prompt,
                read_text("--response") if self.response == DASH else self.response,
                read_bytes("--image") if self.image == DASH else self.image,
            )
        if self.conversation == DASH:
            return Conversation.from_json(read_text("--conversation"), merge_turns=merge_turns, system=system)
        return Conversation.from_file(self.conversation, merge_turns=merge_turns, system=system)
