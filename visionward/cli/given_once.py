"""Options are given once."""

import click


class GivenOnce(click.Command):
    """A command that refuses an option that is given twice: click would take the last and drop the others unseen."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Count the options, then parse."""
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in given:
            single = isinstance(parameter, click.Option) and not (parameter.multiple or parameter.is_flag)
            if single and given.count(parameter) > 1:
                raise click.UsageError(f"{parameter.opts[0]} is given {given.count(parameter)} times, expected once")
        return super().parse_args(ctx, args)
