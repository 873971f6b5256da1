"""Formatted names and numbers. The name of a value contains its unit."""

from loadtest.document import SpreadDocument, TargetDocument

_UNITS = (("_per_s", "/s"), ("_share", ""), ("_bytes", " bytes"), ("_us", " µs"), ("_ms", " ms"), ("_s", " s"))


def label(name: str) -> str:
    """The label of a value: `worker_cpu_us_per_packet` is `worker CPU µs per packet`."""
    for suffix, unit in _UNITS:
        if name.endswith(suffix):
            return f"{_words(name.removesuffix(suffix))}{unit if unit.startswith('/') else unit and f',{unit}'}"
    return _words(name)


def number(name: str, value: float) -> str:
    """A value as text: shares as percentages, the rest with three significant digits at least."""
    if name.endswith("_share"):
        return f"{100 * value:.3g} %"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"


def median(name: str, spread: SpreadDocument) -> str:
    """The median, with ≥ if it is a lower bound of a rate. (The offered rate never is.)"""
    bounded = spread["lower_bound"] and name.endswith("_per_s") and not name.startswith("offered")
    bound = "≥ " if bounded else ""
    return f"{bound}{number(name, spread['median'])}"


def extent(name: str, spread: SpreadDocument) -> str:
    """Minimum and maximum; empty if they are equal."""
    if spread["least"] == spread["most"]:
        return ""
    return f"{number(name, spread['least'])} – {number(name, spread['most'])}"


def requirement(target: TargetDocument) -> str:
    """Return the requirement of a target: `delivered/s of netpolq ≥ 1.25 × accept-one`. Without bounds: what is compared."""
    factor = f" × {target['reference']}" if target["reference"] else ""
    name = target["value"] if not target["reference"] else ""
    bounds = [
        f"{sign} {number(name, bound)}{factor}"
        for sign, bound in (("≥", target["at_least"]), ("≤", target["at_most"]))
        if bound is not None
    ]
    return f"{label(target['value'])} of {target['subject']} {' and '.join(bounds) or 'beside ' + target['reference']}"


def finding(target: TargetDocument) -> str:
    """The result of a target: the figure with its spread, or the reason why there is none."""
    figure = target["figure"]
    parts = []
    if figure is not None:
        name = "" if target["reference"] else target["value"]
        bound = "≥ " if figure["lower_bound"] else ""
        between = extent(name, figure)
        parts.append(f"{bound}{number(name, figure['median'])}{f' ({between})' if between else ''}")
    if target["reason"]:
        parts.append(target["reason"])
    return "; ".join(parts)


def _words(name: str) -> str:
    return " ".join({"cpu": "CPU", "us": "µs"}.get(word, word) for word in name.split("_"))
