"""``python -m visionward``: the command line."""

from visionward.cli.main import cli

if __name__ == "__main__":
    cli()
