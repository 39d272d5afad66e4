"""A chat that checks each message before it is answered, and each answer before it is shown.

    python chat.py [PICTURE] < messages.txt

The picture, if given, is part of the first message.
"""

import sys
from pathlib import Path
from typing import Any

from visionward import GuardProcess, VisionwardError


def answer(messages: list[dict[str, Any]]) -> str:
    """Stands for the model that the chat is with."""
    return "I think that you want the ring with the tree." if messages else ""


def is_safe(guard: GuardProcess, messages: list[dict[str, Any]]) -> bool:
    """Judge the last message in its context. A message that cannot be judged is not safe."""
    try:
        verdict = guard.classify(messages)
    except VisionwardError as error:
        print(f"not judged: {error}", file=sys.stderr)
        return False
    return not verdict.unsafe


def main() -> None:
    """Read one message per line until the end of the input."""
    pictures = [{"type": "image", "image": Path(name).read_bytes()} for name in sys.argv[1:]]
    messages: list[dict[str, Any]] = []
    # Your own model: GuardProcess.load("guard-text-Q4_K_M.gguf", "mmproj-guard-Q8_0.gguf", deadline_s=120)
    with GuardProcess.demo(deadline_s=120) as guard:
        for line in sys.stdin:
            text = {"type": "text", "text": line.strip()}
            parts = [text] if messages else [*pictures, text]
            messages.append({"role": "user", "content": parts})
            if not is_safe(guard, messages):
                print("This message is not answered.", flush=True)
                messages.pop()
                continue
            messages.append({"role": "assistant", "content": answer(messages)})
            if not is_safe(guard, messages):
                print("The answer is not shown.", flush=True)
                del messages[-2:]
                continue
            print(messages[-1]["content"], flush=True)


if __name__ == "__main__":
    main()
