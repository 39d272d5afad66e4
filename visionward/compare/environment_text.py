"""The environment of a comparison as lines of a report."""

from visionward.compare.environment import Environment
from visionward.quantities import count_text, size_text


def environment_facts(environment: Environment) -> tuple[tuple[str, str], ...]:
    """(name, value) of everything but the command line and the hashes."""
    memory = "" if environment.memory_bytes is None else f", {size_text(environment.memory_bytes)} of memory"
    return (
        ("processor", f"{environment.processor}, {count_text(environment.cores, 'usable core')}{memory}"),
        ("system", environment.system),
        ("llama.cpp", environment.llama_cpp or "unknown"),
        ("Python", environment.python),
        ("packages", ", ".join(f"{name} {version}" for name, version in environment.packages.items())),
    )
