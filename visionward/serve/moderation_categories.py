"""OpenAI's moderation categories, and which hazard categories of Llama Guard count as each (docs/serving.md)."""

# OpenAI's category -> the codes that count as it. What Llama Guard does not tell apart has none.
HAZARDS_OF: dict[str, tuple[str, ...]] = {
    "harassment": ("S5",),
    "harassment/threatening": (),
    "hate": ("S10",),
    "hate/threatening": (),
    "illicit": ("S2", "S3"),
    "illicit/violent": ("S1", "S9"),
    "self-harm": ("S11",),
    "self-harm/instructions": (),
    "self-harm/intent": (),
    "sexual": ("S3", "S12"),
    "sexual/minors": ("S4",),
    "violence": ("S1",),
    "violence/graphic": (),
}
