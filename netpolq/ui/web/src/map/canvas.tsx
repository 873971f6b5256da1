import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { MapDocument } from "../documents.ts";
import { errorText } from "../api.ts";
import { Problem } from "../parts/box.tsx";
import type { Graph, Selection } from "./graph.ts";
import { paletteOf } from "./graph-style.ts";
import { Positions, tabStorage } from "./positions.ts";

interface Properties {
  document: MapDocument;
  selection: Selection | null;
  onSelect: (selection: Selection | null) => void;
}

/** The drawn map with its buttons. Its library is loaded when the map is first shown. */
export function Canvas({ document: shown, selection, onSelect }: Properties): JSX.Element {
  const container = useRef<HTMLDivElement>(null);
  const [graph, setGraph] = useState<Graph | null>(null);
  const [problem, setProblem] = useState("");
  const select = useRef(onSelect);
  select.current = onSelect;

  useEffect(() => {
    const element = container.current;
    if (element === null) return;
    let made: Graph | null = null;
    let isClosed = false;
    const sizes = new ResizeObserver(() => made?.resize());
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    const recolor = (): void => made?.recolor(paletteOf(element));
    import("./graph.ts").then(
      (module) => {
        if (isClosed) return;
        made = new module.Graph(element, paletteOf(element), new Positions(tabStorage()), (next) => select.current(next));
        sizes.observe(element);
        scheme.addEventListener("change", recolor);
        setGraph(made);
      },
      (error: unknown) => setProblem(`The map cannot be drawn: ${errorText(error)}. Load the page again.`),
    );
    return () => {
      isClosed = true;
      sizes.disconnect();
      scheme.removeEventListener("change", recolor);
      made?.destroy();
    };
  }, []);
  useEffect(() => {
    graph?.update(shown);
  }, [graph, shown.nodes, shown.edges]);
  useEffect(() => graph?.select(selection), [graph, shown.nodes, shown.edges, selection?.id]);

  return (
    <div class="canvas-box">
      <Problem text={problem} />
      <div class="canvas" ref={container} role="img" aria-label={`Map of ${shown.nodes.size} workloads; the table beside it has its ${shown.edges.size} connections`} />
      <div class="canvas-buttons" role="group" aria-label="View of the map">
        <button type="button" onClick={() => graph?.zoomBy(1.3)} aria-label="Zoom in" title="Zoom in">+</button>
        <button type="button" onClick={() => graph?.zoomBy(1 / 1.3)} aria-label="Zoom out" title="Zoom out">−</button>
        <button type="button" onClick={() => graph?.fit()}>Show all</button>
        <button type="button" onClick={() => graph?.layOutAgain()}>Lay out again</button>
      </div>
    </div>
  );
}
