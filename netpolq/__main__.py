"""The program `netpolq`; the pool starts the supervisor as `python -m netpolq`.

`netpolq hold` runs at boot and is dispatched here, before any other command is imported.
"""

import sys


def main() -> int:
    """Run the command of the program's arguments. Returns the exit code."""
    if sys.argv[1:2] == ["hold"]:
        import os  # noqa: PLC0415  # see the module's docstring

        from netpolq.hold import command  # noqa: PLC0415  # see the module's docstring

        return command.main(sys.argv[2:], os.environ)
    from netpolq import cli  # noqa: PLC0415  # see the module's docstring

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
