"""The click command that every subcommand is: options given once, ``--verbose`` anywhere, help grouped by subject."""

import logging
from typing import Any

import click

from visionward.cli.wrapping import Context

# The subjects of options in the order of the help, and the parameters of each; whatever is in none is under "Options".
_SUBJECTS = {
    "Model": ("model", "mmproj", "demo", "reference", "candidates"),
    "Endpoints": ("endpoints", "styles", "endpoint_rate"),
    "Input": (
        *("image", "prompt", "response", "conversation", "merge_turns", "system", "frames", "max_tiles", "band"),
        *("pixels", "tokens", "data", "forms", "limit", "captions", "sidecars", "columns", "watch"),
    ),
    "Types": (
        "preset",
        "text_type",
        "mmproj_type",
        "onnx_type",
        "weight_type",
        "imatrix",
        "overrides",
        "allow_requantize",
    ),
    "Verdict": ("threshold", "margin", "categories", "exclude", "category_scores", "imitation"),
    "Server": ("host", "port", "api_key_file", "alias", "allow_image_host", "deadline", "grace"),
    "Limits": ("max_waiting", "max_body", "max_messages", "max_images"),
    "Measuring": ("runs", "warmup", "against"),
    "Computation": (
        *("threads", "device", "vision_device", "gpu_layers", "kernels", "n_ctx", "ubatch", "exact"),
        *("vision_backend", "onnx_tower", "onnx_provider", "openvino_device", "memory_limit", "jobs"),
        *("deadline_s", "ray", "actors", "gpus_per_actor"),
    ),
    "Output": ("out", "report", "name", "quoted", "keep", "template", "as_json", "exit_code", "force"),
}
_OTHER, _EVERYWHERE = "Options", "General"


def start_logging() -> None:
    """Show what visionward and the native libraries log, on standard error."""
    logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(name)s: %(message)s", force=True)
    # Pillow logs every tag of every file.
    logging.getLogger("PIL").setLevel(logging.INFO)


def _start_logging(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        start_logging()


class Command(click.Command):
    """A command that takes ``--verbose``, and refuses an option that is given twice.

    Click would take the last value of an option and drop the others without a word.
    """

    context_class = Context

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(
                ["--verbose", "-v"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_start_logging,
                help="Show what the native libraries log, and tracebacks of errors.",
            )
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Count the options, then parse."""
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        # A shell completes what is typed so far.
        for parameter in [] if ctx.resilient_parsing else given:
            single = isinstance(parameter, click.Option) and not (parameter.multiple or parameter.is_flag)
            if single and given.count(parameter) > 1:
                raise click.UsageError(f"{parameter.opts[0]} is given {given.count(parameter)} times, expected once")
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, grouped by subject."""
        subjects: dict[str, list[tuple[str, str]]] = {subject: [] for subject in (_OTHER, *_SUBJECTS, _EVERYWHERE)}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            # Arguments are explained in the text above.
            if record is not None and isinstance(parameter, click.Option):
                subjects[_subject(parameter)].append(record)
        for subject, records in subjects.items():
            if records:
                with formatter.section(subject):
                    formatter.write_dl(records)


def _subject(option: click.Option) -> str:
    if option.is_eager:
        return _EVERYWHERE
    return next((subject for subject, names in _SUBJECTS.items() if option.name in names), _OTHER)
