import type { StylesheetJson } from "cytoscape";

/** Colours of the graph, which the style sheet of the page defines for light and dark screens. */
export interface Palette {
  text: string;
  muted: string;
  surface: string;
  box: string;
  boxBorder: string;
  nodeBorder: string;
  accent: string;
  accept: string;
  deny: string;
  wouldDeny: string;
  wouldAccept: string;
}

/** Read the colours from the custom properties of an element. */
export function paletteOf(element: Element): Palette {
  const style = getComputedStyle(element);
  const color = (name: string): string => style.getPropertyValue(name).trim() || "#888888";
  return {
    text: color("--text"),
    muted: color("--muted"),
    surface: color("--surface"),
    box: color("--graph-box"),
    boxBorder: color("--graph-box-border"),
    nodeBorder: color("--graph-node-border"),
    accent: color("--accent"),
    accept: color("--line-accept"),
    deny: color("--line-deny"),
    wouldDeny: color("--line-would-deny"),
    wouldAccept: color("--line-would-accept"),
  };
}

const FONT = "system-ui, sans-serif";

/** The style of the graph. A verdict has a colour and a pattern of dashes of its own; what is not allowed has a sign, too. */
export function graphStyle(colors: Palette): StylesheetJson {
  const line = (verdict: string, color: string, dashes?: number[]): StylesheetJson[number] => ({
    selector: `edge.${verdict}`,
    style: {
      "line-color": color,
      "target-arrow-color": color,
      color,
      ...(dashes === undefined ? {} : { "line-style": "dashed" as const, "line-dash-pattern": dashes }),
    },
  });
  return [
    {
      selector: "node.end",
      style: {
        shape: "round-rectangle",
        width: "data(width)",
        height: 26,
        label: "data(label)",
        "font-family": FONT,
        "font-size": 12,
        color: colors.text,
        "text-valign": "center",
        "text-halign": "center",
        "background-color": colors.surface,
        "border-width": 1,
        "border-color": colors.nodeBorder,
      },
    },
    { selector: "node.name", style: { shape: "round-tag" } },
    { selector: "node.outside.end", style: { shape: "ellipse", height: 34, "border-style": "dashed" } },
    {
      selector: "node.box",
      style: {
        shape: "round-rectangle",
        label: "data(label)",
        "font-family": FONT,
        "font-size": 13,
        "font-weight": 600,
        color: colors.muted,
        "text-valign": "top",
        "text-halign": "center",
        "text-margin-y": -4,
        padding: "18px",
        "background-color": colors.box,
        "background-opacity": 1,
        "border-width": 1,
        "border-color": colors.boxBorder,
      },
    },
    { selector: "node.box.outside", style: { "background-opacity": 0, "border-style": "dashed" } },
    {
      selector: "edge",
      style: {
        width: "data(width)",
        "curve-style": "bezier",
        "control-point-step-size": 34,
        "target-arrow-shape": "triangle",
        "arrow-scale": 0.9,
        label: "data(sign)",
        "font-family": FONT,
        "font-size": 13,
        "font-weight": 700,
        "text-background-color": colors.surface,
        "text-background-opacity": 1,
        "text-background-padding": "2px",
        "text-background-shape": "roundrectangle",
      },
    },
    line("accept", colors.accept),
    line("deny", colors.deny, [7, 4]),
    line("would-deny", colors.wouldDeny, [2, 3]),
    line("would-accept", colors.wouldAccept, [10, 3, 2, 3]),
    { selector: "edge:selected, edge.near", style: { label: "data(label)", "z-index": 10 } },
    { selector: "edge:selected", style: { "underlay-color": colors.accent, "underlay-opacity": 0.25, "underlay-padding": 5 } },
    { selector: "node.end:selected", style: { "border-width": 3, "border-color": colors.accent } },
    { selector: ".far", style: { opacity: 0.22 } },
  ];
}
