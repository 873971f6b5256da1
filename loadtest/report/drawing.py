"""Plots of the report as SVG elements for the page."""

import io
import re

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from loadtest.document import PlotDocument, ShapeDocument, VariantDocument
from loadtest.figures import label, number

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666", "#000000")
"""Distinguishable with colour blindness. Source: Okabe and Ito, Color Universal Design (2008)."""

_WIDTH_IN = 7.2
_STYLE = Path(__file__).with_name("plots.mplstyle")
_ID = re.compile(r'(id="|url\(#|href="#)')
_QUANTILES_SHOWN = 12


def rounds(shape: ShapeDocument, value: str, serial: str) -> str:
    """A plot with a row for each variant, a dot for each round, and a bar for the median.

    Dots are hollow if the generator was the bottleneck. Empty if no variant has the value.
    """
    variants = [variant for variant in shape["variants"] if value in variant["summary"]]
    if not variants:
        return ""
    with mpl.rc_context(fname=_STYLE):
        figure, axes = _canvas(0.9 + 0.38 * len(variants))
        for row, variant in enumerate(variants):
            colour = _COLOURS[row % len(_COLOURS)]
            for sample in variant["samples"]:
                if value in sample["values"]:
                    fill = "white" if sample["generator_limited"] else colour
                    axes.plot(sample["values"][value], row, "o", markersize=6, color=colour, markerfacecolor=fill, alpha=0.8)
            axes.plot(variant["summary"][value]["median"], row, "|", markersize=20, markeredgewidth=2.5, color=colour)
        axes.set_yticks(range(len(variants)), [variant["name"] for variant in variants])
        axes.set_ylim(len(variants) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        _number_axis(axes, value, "x")
        if any(sample["generator_limited"] for variant in variants for sample in variant["samples"]):
            axes.set_xlabel("○ the generator was the bottleneck: at least so much", loc="left", fontsize=8.5)
        axes.set_title(f"{label(value)}: rounds and median")
        return _svg(figure, serial)


def lost(shape: ShapeDocument, serial: str) -> str:
    """The median share of lost packets. Empty if no packet was lost."""
    variants = [variant for variant in shape["variants"] if "lost_share" in variant["summary"]]
    if not any(variant["summary"]["lost_share"]["most"] for variant in variants):
        return ""
    with mpl.rc_context(fname=_STYLE):
        figure, axes = _canvas(0.9 + 0.38 * len(variants))
        shares = [100 * variant["summary"]["lost_share"]["median"] for variant in variants]
        bars = axes.barh(range(len(variants)), shares, height=0.55, color="#c44e52")
        axes.bar_label(bars, [number("lost_share", share / 100) for share in shares], padding=4)
        axes.set_yticks(range(len(variants)), [variant["name"] for variant in variants])
        axes.set_ylim(len(variants) - 0.5, -0.5)
        axes.set_xlim(0, max(10.0, 1.15 * max(shares)))
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _position: f"{share:g} %"))
        axes.set_title("Lost of all packets sent (median)")
        return _svg(figure, serial)


def distributions(shape: ShapeDocument, serial: str) -> str:
    """Quantiles of each variant, median over the rounds. Empty if no variant has them."""
    curves = {variant["name"]: curve for variant in shape["variants"] if (curve := _curve(variant))}
    if not curves:
        return ""
    quantiles = sorted({quantile for curve in curves.values() for quantile in curve})[-_QUANTILES_SHOWN:]
    with mpl.rc_context(fname=_STYLE):
        figure, axes = _canvas(3.4)
        for position, (name, curve) in enumerate(curves.items()):
            points = [(x, curve[quantile]) for x, quantile in enumerate(quantiles) if quantile in curve]
            axes.plot(*zip(*points, strict=True), "o-", color=_COLOURS[position % len(_COLOURS)], markersize=4, label=name)
        axes.set_xticks(range(len(quantiles)), [f"{100 * quantile:g} %" for quantile in quantiles])
        axes.set_xlabel("of all attempts took at most")
        axes.set_yscale("log")
        for show in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            show(FuncFormatter(_first_digit_only))
        axes.set_title(f"Distribution{_unit_of_distribution(shape)}, median of the rounds; logarithmic")
        _legend(axes)
        return _svg(figure, serial)


def line_plot(shape: ShapeDocument, plot: PlotDocument, serial: str) -> str:
    """A value over a parameter of the variants: the median, with a bar from minimum to maximum. Empty if nothing was measured."""
    summaries = {variant["name"]: variant["summary"] for variant in shape["variants"]}
    value = plot["value"]
    positions = sorted({point["x"] for points in plot["lines"].values() for point in points})
    with mpl.rc_context(fname=_STYLE):
        figure, axes = _canvas(3.2)
        drawn = False
        for order, (name, points) in enumerate(plot["lines"].items()):
            known = [
                (point["x"], summaries[point["variant"]][value])
                for point in points
                if value in summaries.get(point["variant"], {})
            ]
            if not known:
                continue
            drawn = True
            medians = [spread["median"] for _, spread in known]
            below = [spread["median"] - spread["least"] for _, spread in known]
            above = [spread["most"] - spread["median"] for _, spread in known]
            axes.errorbar(
                [positions.index(x) for x, _ in known],
                medians,
                yerr=[below, above],
                fmt="o-",
                capsize=4,
                color=_COLOURS[order % len(_COLOURS)],
                label=name,
            )
        if not drawn:
            return ""
        # Sizes differ by orders of magnitude: with even spacing they are readable.
        axes.set_xticks(range(len(positions)), [f"{x:,g}" for x in positions])
        axes.set_xlim(-0.3, len(positions) - 0.7)
        axes.set_xlabel(plot["x_label"])
        axes.set_ylim(bottom=0)
        _number_axis(axes, value, "y")
        axes.set_title(f"{plot['title']}: {label(value)}")
        _legend(axes)
        return _svg(figure, serial)


def _curve(variant: VariantDocument) -> dict[float, float]:
    """The median over the rounds of each quantile."""
    by_quantile: dict[float, list[float]] = {}
    for sample in variant["samples"]:
        for quantile, value in sample["distribution"].items():
            by_quantile.setdefault(float(quantile), []).append(value)
    return {quantile: _middle(values) for quantile, values in by_quantile.items()}


def _middle(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _first_digit_only(tick: float, _position: int) -> str:
    """Labels 1, 2 and 5 of each power of ten."""
    return f"{tick:,g}" if f"{tick:e}"[0] in "125" else ""


def _unit_of_distribution(shape: ShapeDocument) -> str:
    """The unit of the values that are quantiles by name, such as connect_p50_us."""
    names = (name for variant in shape["variants"] for name in variant["summary"])
    units = {label(name).rsplit(", ", 1)[-1] for name in names if re.search(r"_p\d+_", name)}
    return f" ({units.pop()})" if len(units) == 1 else ""


def _canvas(height_in: float) -> tuple[Figure, Axes]:
    # Without pyplot, which keeps global state.
    figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
    return figure, figure.add_subplot()


def _number_axis(axes: Axes, value: str, which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(6))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda tick, _position: number(value, tick)))
    if which == "x":
        axes.set_xlim(left=0)


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _svg(figure: Figure, serial: str) -> str:
    """The SVG element without the head of a file. `serial`: makes ids in it different from those of other plots."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = text.getvalue()
    return _ID.sub(rf"\g<1>{serial}-", svg[svg.index("<svg") :])
