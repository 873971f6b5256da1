"""The HTML page of the report, generated from the document."""

from collections.abc import Iterator
from html import escape

from loadtest.document import Document, ShapeDocument, TargetDocument
from loadtest.figures import extent, finding, label, median, requirement
from loadtest.report import drawing
from loadtest.table import columns, notes

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 76rem; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; }
h2 { font-size: 1.3rem; margin: 2.8rem 0 .3rem; padding-top: 1rem; border-top: 2px solid #ddd; }
h2 code { color: #666; font-weight: normal; font-size: .8em; }
p { max-width: 60rem; }
.facts, .note, caption, details { color: #555; font-size: .9rem; }
.warning { background: #fff3cd; border-left: 4px solid #e0a800; padding: .6rem 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: .88rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th { text-align: right; font-weight: 600; border-bottom: 2px solid #bbb; padding: .3rem .7rem; vertical-align: bottom; }
td { text-align: right; border-bottom: 1px solid #e6e6e6; padding: .3rem .7rem; vertical-align: top; }
td:first-child { white-space: nowrap; }
th:first-child, td:first-child, .targets th, .targets td { text-align: left; }
td small { color: #777; display: block; white-space: nowrap; }
.outcome { display: inline-block; border-radius: .7rem; padding: 0 .7rem; color: #fff; font-size: .82rem; font-weight: 600; }
.met { background: #1a7f4b; } .compared { background: #35618e; }
.missed { background: #c0392b; } .undecided { background: #8a6d00; } .failed { background: #c0392b; }
.plots { display: flex; flex-wrap: wrap; gap: 1.2rem; align-items: flex-start; }
.plots { overflow-x: auto; }
.plots svg { width: 36rem; max-width: 100%; height: auto; }
"""


def render(document: Document) -> str:
    """Return the complete page. It loads no other resources."""
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>netpolq load test, {escape(document['began'])}</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
            *_head(document),
            *(line for number, shape in enumerate(document["shapes"]) for line in _shape(shape, f"s{number}")),
            "</body>\n</html>\n",
        )
    )


def _head(document: Document) -> Iterator[str]:
    machine = document["machine"]
    yield "<h1>netpolq under load</h1>"
    facts = (
        f"netpolq {document['netpolq']}, {document['began']}",
        f"{machine['cpu_model']}, {machine['usable_cpus']} of {machine['cpus']} CPUs, {machine['memory_bytes'] / 2**30:.0f} GiB",
        f"Linux {machine['kernel']}, Python {machine['python']}",
        f"load average before: {', '.join(map(str, machine['load_average']))}",
        f"{document['rounds']} rounds; {document['packets']:,} packets or {document['duration_s']:g} s a load",
    )
    yield f'<p class="facts">{"<br>".join(map(escape, facts))}</p>'
    if document["quick"]:
        yield '<p class="warning">A quick run: one round of tiny loads, to see that everything runs. The figures mean nothing.</p>'
    yield (
        "<p>Variants of a shape stood side by side and were loaded in turn in every round. Only ratios within a round count, and of the "
        "rounds their median; in brackets from the least to the most. ≥ marks a lower bound: the generator was the bottleneck.</p>"
    )
    yield '<table class="targets"><thead><tr><th>Shape</th><th>Target</th><th></th><th>Measured</th></tr></thead><tbody>'
    for shape in document["shapes"]:
        name = f'<a href="#{escape(shape["name"])}">{escape(shape["name"])}</a>'
        if shape["failure"]:
            failed = '<span class="outcome failed">failed</span>'
            yield f"<tr><td>{name}</td><td></td><td>{failed}</td><td>{escape(shape['failure'])}</td></tr>"
        for target in shape["targets"]:
            yield f"<tr><td>{name}</td>{_target(target)}</tr>"
    yield "</tbody></table>"


def _target(target: TargetDocument) -> str:
    outcome = f'<span class="outcome {escape(target["outcome"])}">{escape(target["outcome"])}</span>'
    return f"<td>{escape(requirement(target))}</td><td>{outcome}</td><td>{escape(finding(target))}</td>"


def _shape(shape: ShapeDocument, serial: str) -> Iterator[str]:
    yield f'<h2 id="{escape(shape["name"])}">{escape(shape["title"])} <code>{escape(shape["name"])}</code></h2>'
    yield from (f"<p>{escape(paragraph)}</p>" for paragraph in shape["definition"].split("\n\n"))
    if shape["failure"]:
        yield f'<p class="warning">Could not be measured: {escape(shape["failure"])}</p>'
    yield from _table(shape)
    yield from (f"<p>{escape(remark)}</p>" for remark in shape["remarks"])
    yield '<div class="plots">'
    yield from (plot for plot in _plots(shape, serial) if plot)
    yield "</div>"
    yield from _notes(shape)


def _table(shape: ShapeDocument) -> Iterator[str]:
    names = columns(shape["variants"])
    if not names:
        return
    heads = "".join(f"<th>{escape(label(name))}</th>" for name in names)
    yield f'<div class="wide"><table><thead><tr><th>Variant</th>{heads}</tr></thead><tbody>'
    for variant in shape["variants"]:
        cells = []
        for name in names:
            spread = variant["summary"].get(name)
            cells.append(
                "<td></td>"
                if spread is None
                else f"<td>{escape(median(name, spread))}<small>{escape(extent(name, spread))}</small></td>"
            )
        yield f"<tr><td>{escape(variant['name'])}</td>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"


def _plots(shape: ShapeDocument, serial: str) -> Iterator[str]:
    values = dict.fromkeys(target["value"] for target in shape["targets"])
    for number, value in enumerate(values or columns(shape["variants"])[:1]):
        yield drawing.rounds(shape, value, f"{serial}r{number}")
    for number, plot in enumerate(shape["plots"]):
        yield drawing.line_plot(shape, plot, f"{serial}l{number}")
    yield drawing.distributions(shape, f"{serial}d")
    yield drawing.lost(shape, f"{serial}x")


def _notes(shape: ShapeDocument) -> Iterator[str]:
    """The merged notes, and every note of every round in a collapsed part."""
    short = [
        f"{variant['name']}: {note} ({len(rounds)} of {len(variant['samples'])} rounds)"
        for variant in shape["variants"]
        for note, rounds in notes(variant).items()
    ]
    if not short:
        return
    yield f'<ul class="note">{"".join(f"<li>{escape(line)}</li>" for line in short)}</ul>'
    yield "<details><summary>every round</summary><ul>"
    for variant in shape["variants"]:
        for number, sample in enumerate(variant["samples"], 1):
            if sample["notes"]:
                yield f"<li>{escape(variant['name'])}, round {number}: {escape('; '.join(sample['notes']))}</li>"
    yield "</ul></details>"
