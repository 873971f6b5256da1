import type { ElementDefinition } from "cytoscape";
import type { MapDocument } from "../documents.ts";
import { portText, VERDICT_WORDS } from "../format.ts";
import type { Edge, Workload } from "../types.ts";

const MIN_WIDTH = 1.2;
const MAX_WIDTH = 8;

/** The id of the box around the workloads of a namespace, or around what is outside of the cluster. Ids of workloads have no space. */
export function boxId(workload: Workload): string {
  return workload.namespace === null ? "box outside" : `box namespace ${workload.namespace}`;
}

/**
 * Boxes, workloads and edges as elements of the graph. Edges whose ends are not there are left out, and those between addresses outside of
 * the cluster, which no line could show: the table has them.
 */
export function elementsOf(document: MapDocument): ElementDefinition[] {
  const boxes = new Map<string, ElementDefinition>();
  const nodes: ElementDefinition[] = [];
  for (const workload of document.nodes.values()) {
    const id = boxId(workload);
    const isOutside = workload.namespace === null;
    boxes.set(id, { group: "nodes", data: { id, label: workload.namespace ?? "outside of the cluster" }, classes: isOutside ? "box outside" : "box" });
    nodes.push(node(workload, id));
  }
  const edges = [...document.edges.values()].filter((edge) => isDrawn(edge, document));
  return [...boxes.values(), ...nodes, ...edges.map(edgeElement)];
}

function isDrawn(edge: Edge, document: MapDocument): boolean {
  const isOutsideAlone = edge.source === "outside" && edge.destination === "outside";
  return !isOutsideAlone && document.nodes.has(edge.source) && document.nodes.has(edge.destination);
}

function node(workload: Workload, parent: string): ElementDefinition {
  const label = workload.id === "outside" ? "other addresses" : workload.name;
  const shown = label.length > 32 ? `${label.slice(0, 31)}…` : label;
  return { group: "nodes", data: { id: workload.id, parent, label: shown, width: shown.length * 6.9 + (workload.kind === "name" ? 44 : 22) }, classes: `end ${workload.kind}` };
}

function edgeElement(edge: Edge): ElementDefinition {
  return {
    group: "edges",
    data: {
      id: edge.id,
      source: edge.source,
      target: edge.destination,
      width: edgeWidth(edge.connections),
      sign: edge.verdict === "accept" ? "" : VERDICT_WORDS[edge.verdict].sign,
      label: portsLabel(edge),
    },
    classes: edge.verdict,
  };
}

/** The width of an edge in pixels: it grows with the logarithm of the connections. */
export function edgeWidth(connections: number): number {
  return Math.min(MAX_WIDTH, MIN_WIDTH + Math.log10(Math.max(1, connections)) * 1.4);
}

function portsLabel(edge: Edge): string {
  const shown = edge.ports.slice(0, 2).map(portText);
  const more = edge.ports.length - shown.length + edge.more_ports;
  const sign = VERDICT_WORDS[edge.verdict].sign;
  return [sign, shown.join(", "), ...(more > 0 ? [`+${more}`] : [])].join(" ");
}
