"""The program `netpolq`; `python -m netpolq` is the form in which the pool starts the supervisor.

`netpolq hold` runs at boot and is dispatched here, before the imports of all other commands.
"""

import sys


def main() -> int:
    """Run the command that the program's arguments name. Returns the exit code."""
    if sys.argv[1:2] == ["hold"]:
        import os  # noqa: PLC0415  # see the module's docstring

        from netpolq.hold import command  # noqa: PLC0415  # see the module's docstring

        return command.main(sys.argv[2:], os.environ)
    from netpolq import cli  # noqa: PLC0415  # see the module's docstring

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
