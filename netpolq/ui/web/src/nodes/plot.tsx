import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

interface Properties {
  title: string;
  /** Seconds since the epoch, one for each value. */
  at: readonly number[];
  values: readonly (number | null)[];
  format: (value: number) => string;
}

const HEIGHT = 84;

/** A small plot of a value over time, with its newest value as text. A value that is null is a gap. */
export function Plot({ title, at, values, format }: Properties): JSX.Element {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const data = useRef<uPlot.AlignedData>([[], []]);
  data.current = [[...at], [...values]];

  useEffect(() => {
    const element = box.current;
    if (element === null) return;
    const draw = (): void => {
      plot.current?.destroy();
      plot.current = new uPlot(options(element, format), data.current, element);
    };
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    const sizes = new ResizeObserver(() => plot.current?.setSize({ width: element.clientWidth, height: HEIGHT }));
    draw();
    sizes.observe(element);
    scheme.addEventListener("change", draw);
    return () => {
      sizes.disconnect();
      scheme.removeEventListener("change", draw);
      plot.current?.destroy();
      plot.current = null;
    };
  }, []);
  useEffect(() => plot.current?.setData(data.current), [at, values]);

  const last = values.findLast((value) => value !== null) ?? null;
  return (
    <figure class="plot">
      <figcaption>{title} <b>{last === null ? "-" : format(last)}</b></figcaption>
      <div ref={box} aria-hidden="true" />
    </figure>
  );
}

function options(element: HTMLElement, format: (value: number) => string): uPlot.Options {
  const style = getComputedStyle(element);
  const color = (name: string): string => style.getPropertyValue(name).trim() || "#888888";
  const axis = { stroke: color("--muted"), font: "10px system-ui, sans-serif", grid: { stroke: color("--border"), width: 1 }, ticks: { show: false } };
  return {
    width: Math.max(80, element.clientWidth),
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    padding: [6, 8, 0, 0],
    scales: { y: { range: (_plot, _min, max) => [0, max > 0 ? max * 1.1 : 1] } },
    axes: [
      { ...axis, size: 20, space: 70, values: (_plot, splits) => splits.map((split) => timeText(split, (splits[1] ?? 0) - (splits[0] ?? 0) < 60)) },
      { ...axis, size: 46, space: 26, values: (_plot, splits) => splits.map(format) },
    ],
    series: [{}, { stroke: color("--accent"), width: 1.5, fill: color("--accent-soft"), points: { show: false } }],
  };
}

function timeText(at_s: number, withSeconds: boolean): string {
  return new Date(at_s * 1000).toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit", ...(withSeconds && { second: "2-digit" }) });
}
