"""The response of ``POST /v1/moderations``."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.policy import DEFAULT_POLICY, Policy
from visionward.runtime.guard.verdict import Verdict
from visionward.serve.chat_response import verdict_field
from visionward.serve.moderation_categories import HAZARDS_OF


@dataclass(frozen=True)
class Moderated:
    """One input and its verdict, for which the categories were scored.

    Attributes:
        conversation: what was judged.
        verdict: the guard's.
        queue_ms: milliseconds that the input waited for others.
    """

    conversation: Conversation
    verdict: Verdict
    queue_ms: float = 0.0

    @property
    def input_types(self) -> list[str]:
        """What was judged: text, image or both."""
        return [
            name for name, there in (("text", self.conversation.texts), ("image", self.conversation.images)) if there
        ]


def moderation_response(model: str, moderated: Sequence[Moderated], policy: Policy) -> dict[str, Any]:
    """The whole response.

    Args:
        model: the model that judged.
        moderated: the inputs in order.
        policy: the categories in force.
    """
    return {
        "id": f"modr-{secrets.token_hex(16)}",
        "model": model,
        "results": [_result(one, policy) for one in moderated],
    }


def _result(one: Moderated, policy: Policy) -> dict[str, Any]:
    verdict = one.verdict
    named = {category.code for category in verdict.categories}
    flags = {code: code in named for code in policy.codes}
    scores = {code: hazard_score(verdict, code) for code in policy.codes}
    applied = dict.fromkeys(policy.codes, one.input_types)
    for category, codes in HAZARDS_OF.items():
        # A custom policy may give a code another meaning; then it does not count as OpenAI's category.
        counted = [code for code in codes if code in policy and policy[code].name == DEFAULT_POLICY[code].name]
        flags[category] = any(flags[code] for code in counted)
        scores[category] = max((scores[code] for code in counted), default=0.0)
        applied[category] = one.input_types if counted else []
    return {
        "flagged": verdict.unsafe,
        "categories": flags,
        "category_scores": scores,
        "category_applied_input_types": applied,
        "visionward": verdict_field(verdict, one.queue_ms),
    }


def hazard_score(verdict: Verdict, code: str) -> float:
    """P(unsafe), times the probability that the model names the code.

    The latter is that of the code as the first one named or, if the model named it in a later place, there, whichever
    is higher.

    Raises:
        ValueError: the categories were not scored.
    """
    first = verdict.category_scores[code]
    if first is None:
        raise ValueError(f"{code} was not scored")
    in_place = (category.score for category in verdict.categories if category.code == code)
    return verdict.score * max((first, *in_place))
