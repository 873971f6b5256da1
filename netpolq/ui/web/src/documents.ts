import type { Edge, Flow, FlowsHead, Head, ItemsChange, MapHead, NodeState, PoliciesHead, Policy, Workload } from "./types.ts";

/** Items by their id, in the order of their arrival. A change makes a new map; items that have not changed stay the same objects. */
export type Items<Item> = ReadonlyMap<string, Item>;

/** How a stream's events become a document: `state` from a whole one, `change` from the one before. */
export interface Reducer<Document> {
  state(data: unknown): Document;
  change(before: Document, data: unknown): Document;
}

export interface MapDocument {
  head: MapHead;
  nodes: Items<Workload>;
  edges: Items<Edge>;
}

export interface ListDocument<DocumentHead extends Head, Item> {
  head: DocumentHead;
  items: Items<Item>;
}

/** Return the items by their id. */
export function byId<Item extends { id: string }>(items: readonly Item[]): Items<Item> {
  return new Map(items.map((item) => [item.id, item]));
}

/** Return the items after a change: first removed, then put, so that an id in both lists stays. */
export function changed<Item extends { id: string }>(before: Items<Item>, change: Partial<ItemsChange<Item>>): Items<Item> {
  const { removed = [], upserted = [] } = change;
  if (removed.length === 0 && upserted.length === 0) return before;
  const after = new Map(before);
  for (const id of removed) after.delete(id);
  for (const item of upserted) after.set(item.id, item);
  return after;
}

interface MapMessage {
  head: MapHead;
  nodes: Workload[];
  edges: Edge[];
}

interface MapChange {
  head: MapHead;
  nodes: ItemsChange<Workload>;
  edges: ItemsChange<Edge>;
}

export const MAP: Reducer<MapDocument> = {
  state(data) {
    const { head, nodes, edges } = data as MapMessage;
    return { head, nodes: byId(nodes), edges: byId(edges) };
  },
  change(before, data) {
    const { head, nodes, edges } = data as MapChange;
    return { head, nodes: changed(before.nodes, nodes ?? {}), edges: changed(before.edges, edges ?? {}) };
  },
};

/** The reducer of a document with one list, which the whole document has under `name`. */
function list<DocumentHead extends Head, Item extends { id: string }>(name: string): Reducer<ListDocument<DocumentHead, Item>> {
  return {
    state(data) {
      const whole = data as { head: DocumentHead } & Record<string, unknown>;
      return { head: whole.head, items: byId(whole[name] as Item[]) };
    },
    change(before, data) {
      const change = data as { head: DocumentHead } & ItemsChange<Item>;
      return { head: change.head, items: changed(before.items, change) };
    },
  };
}

export const FLOWS = list<FlowsHead, Flow>("flows");
export const POLICIES = list<PoliciesHead, Policy>("policies");
export const NODES = list<Head, NodeState>("nodes");

/** The newest flows first, at most `limit`; flows of the same moment by their id, so that rows do not jump. */
export function newestFirst(flows: Items<Flow>, limit: number): Flow[] {
  const sorted = [...flows.values()].sort((a, b) => compare(b.last_seen, a.last_seen) || compare(a.id, b.id));
  return sorted.slice(0, limit);
}

/** Denied edges first, then those with most connections. */
export function importantFirst(edges: Items<Edge>): Edge[] {
  const rank = { deny: 0, "would-deny": 1, "would-accept": 2, accept: 3 };
  return [...edges.values()].sort(
    (a, b) => rank[a.verdict] - rank[b.verdict] || b.connections - a.connections || compare(a.id, b.id),
  );
}

const TIERS = ["admin", "network-policy", "baseline"];

/** Policies in the order in which tiers are evaluated: tier, priority, then namespace and name. */
export function inEvaluationOrder(policies: Items<Policy>): Policy[] {
  return [...policies.values()].sort(
    (a, b) =>
      tierRank(a.tier) - tierRank(b.tier) ||
      (a.priority ?? 0) - (b.priority ?? 0) ||
      compare(a.namespace ?? "", b.namespace ?? "") ||
      compare(a.name, b.name),
  );
}

/** The position of a tier in the evaluation; a tier that this page does not know comes last. */
export function tierRank(tier: string): number {
  const index = TIERS.findIndex((name) => tier === name || (name === "network-policy" && tier === "network"));
  return index < 0 ? TIERS.length : index;
}

/** Order of two texts by their code units, as the server sorts. */
export function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
