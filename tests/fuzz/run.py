"""The process that fuzzes one target with atheris: `python -m tests.fuzz.run TARGET [libFuzzer's options]`."""

import sys

import atheris

with atheris.instrument_imports(include=["netpolq", "netpolq_worker"], enable_loader_override=False):
    from tests.fuzz.targets import TARGETS

name = sys.argv.pop(1)
atheris.Setup(sys.argv, TARGETS[name]())
atheris.Fuzz()
