import { describe, expect, it } from "vitest";
import { changed, byId, FLOWS, importantFirst, inEvaluationOrder, MAP, newestFirst } from "../src/documents.ts";
import type { Policy } from "../src/types.ts";
import { flow } from "./fixtures/flows.ts";
import { edge, HEAD, workload } from "./fixtures/map.ts";

describe("the map's document", () => {
  const state = MAP.state({ head: HEAD, nodes: [workload("shop/web"), workload("shop/db")], edges: [edge("shop/web", "shop/db")] });

  it("puts, replaces and removes by id", () => {
    const after = MAP.change(state, {
      head: { ...HEAD, connections: 31 },
      nodes: { upserted: [workload("shop/batch")], removed: ["shop/web"] },
      edges: { upserted: [edge("shop/batch", "shop/db", "deny", 4)], removed: ["shop/web|shop/db|accept"] },
    });
    expect([...after.nodes.keys()]).toEqual(["shop/db", "shop/batch"]);
    expect([...after.edges.keys()]).toEqual(["shop/batch|shop/db|deny"]);
    expect(after.head.connections).toBe(31);
  });

  it("keeps the objects that have not changed, so that their rows are not drawn again", () => {
    const after = MAP.change(state, { head: HEAD, nodes: { upserted: [], removed: [] }, edges: { upserted: [edge("shop/db", "shop/web")], removed: [] } });
    expect(after.nodes).toBe(state.nodes);
    expect(after.edges.get("shop/web|shop/db|accept")).toBe(state.edges.get("shop/web|shop/db|accept"));
  });

  it("does not change the document before", () => {
    MAP.change(state, { head: HEAD, nodes: { upserted: [], removed: ["shop/web"] }, edges: { upserted: [], removed: [] } });
    expect(state.nodes.size).toBe(2);
  });

  it("lists denied edges first, then those with most connections", () => {
    const edges = byId([edge("a/a", "a/b", "accept", 900), edge("a/a", "a/c", "deny", 1), edge("a/a", "a/d", "would-deny", 5), edge("a/a", "a/e", "deny", 2)]);
    expect(importantFirst(edges).map(({ destination }) => destination)).toEqual(["a/e", "a/c", "a/d", "a/b"]);
  });
});

describe("a document with one list", () => {
  it("keeps an id that is both removed and put", () => {
    const after = changed(byId([flow("1", 1)]), { removed: ["1"], upserted: [flow("1", 9)] });
    expect(after.get("1")?.last_seen).toContain(":09.");
  });

  it("shows the newest flows first, at most so many", () => {
    const document = FLOWS.change(FLOWS.state({ head: HEAD, flows: [flow("a", 3), flow("b", 5)] }), { head: HEAD, upserted: [flow("c", 4), flow("d", 5)], removed: [] });
    expect(newestFirst(document.items, 3).map(({ id }) => id)).toEqual(["b", "d", "c"]);
  });

  it("orders policies as they are evaluated", () => {
    const policy = (tier: string, name: string, priority: number | null): Policy => ({ id: name, tier, name, priority, namespace: null }) as Policy;
    const policies = byId([policy("baseline", "e", 1), policy("network-policy", "c", null), policy("admin", "b", 20), policy("admin", "a", 10), policy("network-policy", "d", null)]);
    expect(inEvaluationOrder(policies).map(({ name }) => name)).toEqual(["a", "b", "c", "d", "e"]);
  });
});
