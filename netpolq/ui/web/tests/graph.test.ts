import { describe, expect, it } from "vitest";
import { MAP, type MapDocument } from "../src/documents.ts";
import { edgeWidth, elementsOf } from "../src/map/elements.ts";
import { Graph } from "../src/map/graph.ts";
import { Positions } from "../src/map/positions.ts";
import type { Palette } from "../src/map/graph-style.ts";
import type { Edge, Workload } from "../src/types.ts";
import { edge, HEAD, OUTSIDE, workload } from "./fixtures/map.ts";

const GRAY = "#888888";
const PALETTE: Palette = {
  text: GRAY, muted: GRAY, surface: GRAY, box: GRAY, boxBorder: GRAY, nodeBorder: GRAY, accent: GRAY,
  accept: GRAY, deny: GRAY, wouldDeny: GRAY, wouldAccept: GRAY,
};

const NODES = [workload("shop/web"), workload("shop/db"), workload("shop/batch"), workload("ops/dns"), OUTSIDE];
const EDGES = [edge("shop/web", "shop/db"), edge("shop/web", "ops/dns"), edge("outside", "shop/web"), edge("shop/batch", "shop/db", "deny")];

function document(nodes: Workload[], edges: Edge[]): MapDocument {
  return MAP.state({ head: HEAD, nodes, edges });
}

function graph(storage: Storage | null = null): Graph {
  return new Graph(null, PALETTE, new Positions(storage), () => {});
}

describe("the graph", () => {
  it("places all workloads at first, apart from each other", () => {
    const drawn = graph();
    expect(drawn.update(document(NODES, EDGES))).toBe(true);
    const places = [...drawn.where().values()].map(({ x, y }) => `${Math.round(x)} ${Math.round(y)}`);
    expect(new Set(places).size).toBe(NODES.length);
  });

  it("moves no workload when counters change, and does not lay out", () => {
    const drawn = graph();
    drawn.update(document(NODES, EDGES));
    const before = drawn.where();
    expect(drawn.update(document(NODES, EDGES.map((one) => ({ ...one, connections: 99 }))))).toBe(false);
    expect(drawn.where()).toEqual(before);
  });

  it("moves no known workload when new ones come, in known and new namespaces", () => {
    const drawn = graph();
    drawn.update(document(NODES, EDGES));
    const before = drawn.where();
    const added = [workload("shop/cache"), workload("new/api")];
    expect(drawn.update(document([...NODES, ...added], [...EDGES, edge("shop/web", "shop/cache"), edge("new/api", "shop/web")]))).toBe(true);
    const after = drawn.where();
    expect(after.size).toBe(NODES.length + 2);
    for (const [id, place] of before) expect(after.get(id), id).toEqual(place);
  });

  it("puts a workload that comes back where it was", () => {
    const drawn = graph();
    drawn.update(document(NODES, EDGES));
    const before = drawn.where();
    drawn.update(document(NODES.slice(1, 3), []));
    expect(drawn.where().size).toBe(2);
    expect(drawn.update(document(NODES, EDGES))).toBe(false);
    expect(drawn.where()).toEqual(before);
  });

  it("keeps places for the next load of the page", () => {
    sessionStorage.clear();
    const drawn = graph(sessionStorage);
    drawn.update(document(NODES, EDGES));
    const again = graph(sessionStorage);
    expect(again.update(document(NODES, EDGES))).toBe(false);
    for (const [id, { x, y }] of drawn.where()) expect(again.where().get(id), id).toEqual({ x: Math.round(x), y: Math.round(y) });
  });

  it("starts without positions from a storage that holds something else", () => {
    for (const text of ["{", "3", '[["a"], 1, ["b", "x", null]]']) {
      sessionStorage.setItem("netpolq.positions", text);
      expect(graph(sessionStorage).update(document(NODES, EDGES))).toBe(true);
    }
  });

  it("draws namespaces as boxes and leaves out edges without ends", () => {
    const elements = elementsOf(document(NODES, [...EDGES, edge("shop/web", "gone/away")]));
    const boxes = elements.filter(({ classes }) => String(classes).startsWith("box")).map(({ data }) => data.label);
    expect(boxes).toEqual(["shop", "ops", "outside of the cluster"]);
    expect(elements.filter(({ group }) => group === "edges")).toHaveLength(EDGES.length);
  });

  it("draws edges wider with more connections, within bounds", () => {
    const widths = [0, 1, 10, 1000, 1e9].map(edgeWidth);
    expect(widths).toEqual([...widths].sort((a, b) => a - b));
    expect(Math.max(...widths)).toBeLessThanOrEqual(8);
  });
});
