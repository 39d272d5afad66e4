"""The guard: policy, conversation, prompt, answer, verdict."""
