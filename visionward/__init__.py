"""Llama Guard 3 11B Vision on your own machine: quantized, on unmodified llama.cpp, without the cloud."""

from visionward.runtime.conversation import Conversation
from visionward.runtime.engine import Engine
from visionward.runtime.errors import VisionwardError
from visionward.runtime.guard import Guard
from visionward.runtime.policy import DEFAULT_POLICY, Category, Policy
from visionward.runtime.verdict import CategoryScore, Verdict

__all__ = [
    "DEFAULT_POLICY",
    "Category",
    "CategoryScore",
    "Conversation",
    "Engine",
    "Guard",
    "Policy",
    "Verdict",
    "VisionwardError",
]
