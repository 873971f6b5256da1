import cytoscape, { type CollectionReturnValue, type Core, type ElementDefinition, type NodeCollection, type NodeSingular } from "cytoscape";
import fcose from "cytoscape-fcose";
import type { MapDocument } from "../documents.ts";
import { elementsOf } from "./elements.ts";
import { graphStyle, type Palette } from "./graph-style.ts";
import type { Position, Positions } from "./positions.ts";

cytoscape.use(fcose);

/** What is selected: a workload or an edge, by its id. */
export interface Selection {
  kind: "node" | "edge";
  id: string;
}

/** Leaves room for the buttons. */
const FIT_PADDING = 52;
const MAX_FIT_ZOOM = 1.4;

/**
 * The drawn graph. `update` takes each new document. Workloads that have a position keep it, whatever comes or goes; only new ones are
 * placed, around the others. Without a container the graph works, and draws nothing.
 */
export class Graph {
  private readonly cy: Core;
  private isPlaced = false;

  constructor(
    container: HTMLElement | null,
    palette: Palette,
    private readonly positions: Positions,
    onSelect: (selection: Selection | null) => void,
  ) {
    this.cy = cytoscape({
      container,
      headless: container === null,
      styleEnabled: true,
      style: graphStyle(palette),
      minZoom: 0.1,
      maxZoom: 3,
      boxSelectionEnabled: false,
      selectionType: "single",
    });
    this.cy.on("dragfree", "node", () => this.keepPositions());
    this.cy.on("tap", (event) => {
      const target = event.target;
      if (target === this.cy || target.hasClass("box")) onSelect(null);
      else onSelect({ kind: target.isNode() ? "node" : "edge", id: target.id() });
    });
    this.cy.on("mouseover", "edge", (event) => event.target.addClass("near"));
    this.cy.on("mouseout", "edge", (event) => event.target.removeClass("near"));
  }

  /** Show a document. Returns whether workloads had to be placed. */
  update(document: MapDocument): boolean {
    const wanted = elementsOf(document);
    const ids = new Set(wanted.map((element) => element.data.id));
    const added: ElementDefinition[] = [];
    this.cy.batch(() => {
      // A box goes after its workloads: cytoscape removes what is in it.
      const gone = this.cy.elements().toArray().filter((element) => !ids.has(element.id()));
      for (const element of gone.filter((one) => !one.hasClass("box"))) element.remove();
      for (const element of gone) element.remove();
      for (const element of wanted) {
        const present = this.cy.getElementById(element.data.id ?? "");
        if (present.empty()) {
          const position = this.positions.get(element.data.id ?? "");
          added.push(position === undefined ? element : { ...element, position: { ...position } });
        } else if (present.isEdge()) present.data({ width: element.data.width, label: element.data.label });
      }
      this.cy.add(added);
    });
    const isNew = this.cy.nodes(".end").toArray().some((node) => this.positions.get(node.id()) === undefined);
    if (isNew) this.place();
    if (!this.isPlaced && this.cy.nodes(".end").nonempty()) {
      this.isPlaced = true;
      this.fit();
    }
    return isNew;
  }

  /** Place all workloads again. */
  layOutAgain(): void {
    this.positions.forget();
    this.place();
    this.fit();
  }

  /** Show all of the graph. */
  fit(): void {
    this.cy.fit(undefined, FIT_PADDING);
    if (this.cy.zoom() > MAX_FIT_ZOOM) {
      this.cy.zoom(MAX_FIT_ZOOM);
      this.cy.center();
    }
  }

  zoomBy(factor: number): void {
    this.cy.zoom({ level: this.cy.zoom() * factor, renderedPosition: { x: this.cy.width() / 2, y: this.cy.height() / 2 } });
  }

  /** Mark what is selected and what belongs to it. */
  select(selection: Selection | null): void {
    this.cy.batch(() => {
      this.cy.elements().unselect().removeClass("far near");
      const element = selection === null ? this.cy.collection() : this.cy.getElementById(selection.id);
      if (element.empty()) return;
      element.select();
      const near = selection?.kind === "node" ? element.closedNeighborhood() : element.union(element.connectedNodes());
      this.cy.elements().difference(near).filter("edge, node.end").addClass("far");
      if (selection?.kind === "node") element.connectedEdges().addClass("near");
    });
  }

  recolor(palette: Palette): void {
    this.cy.style(graphStyle(palette));
  }

  resize(): void {
    this.cy.resize();
  }

  destroy(): void {
    this.cy.destroy();
  }

  /** Where each workload is now. */
  where(): Map<string, Position> {
    return new Map(this.cy.nodes(".end").map((node) => [node.id(), { ...node.position() }]));
  }

  private place(): void {
    const ends = this.cy.nodes(".end");
    const known: NodeCollection = ends.filter((node) => this.positions.get(node.id()) !== undefined);
    const before = known.map((node) => [node, { ...node.position() }] as const);
    const added: NodeCollection = ends.filter((node) => this.positions.get(node.id()) === undefined);
    if (known.nonempty()) added.forEach((node, index) => void node.position(this.firstGuess(node, index)));
    const part = this.partToPlace(added, known);
    const fixed = before.filter(([node]) => part.has(node)).map(([node, position]) => ({ nodeId: node.id(), position }));
    part
      .layout({
        name: "fcose",
        animate: false,
        fit: false,
        quality: "default",
        randomize: known.empty(),
        nodeDimensionsIncludeLabels: true,
        nodeSeparation: 75,
        idealEdgeLength: 90,
        nodeRepulsion: 9_000,
        gravityCompound: 1.3,
        tilingPaddingVertical: 14,
        tilingPaddingHorizontal: 14,
        ...(known.empty() ? {} : { fixedNodeConstraint: fixed }),
      } as unknown as cytoscape.LayoutOptions)
      .run();
    for (const [node, position] of before) node.position(position);
    this.keepPositions();
  }

  /** New workloads with what they may touch: their neighbours, and the others of their namespaces. The rest of a large map costs time. */
  private partToPlace(added: NodeCollection, known: NodeCollection): CollectionReturnValue {
    if (known.empty()) return this.cy.elements();
    const ends = added.union(added.neighborhood("node.end")).union(added.parents().children());
    return ends.union(ends.edgesWith(ends)).union(ends.parents());
  }

  /** Where a new workload starts: beside its neighbours or its namespace, otherwise right of everything. */
  private firstGuess(node: NodeSingular, index: number): Position {
    const isKnown = (other: NodeSingular): boolean => this.positions.get(other.id()) !== undefined;
    const shift = { x: 40 * Math.cos(index * 2.4), y: 40 * Math.sin(index * 2.4) };
    for (const group of [node.siblings(".end").filter(isKnown), node.neighborhood("node.end").filter(isKnown)]) {
      if (group.empty()) continue;
      const box = group.boundingBox({ includeLabels: false, includeEdges: false });
      return { x: (box.x1 + box.x2) / 2 + shift.x, y: box.y2 + 40 + shift.y };
    }
    const box = this.cy.nodes(".end").filter(isKnown).boundingBox({ includeLabels: false });
    return { x: box.x2 + 120 + shift.x, y: (box.y1 + box.y2) / 2 + shift.y };
  }

  private keepPositions(): void {
    this.positions.put(this.where());
  }
}
