import { describe, expect, it } from "vitest";
import { cutsFirst, isCut, portsOf, whyOf } from "../src/what-if/changes.ts";
import type { Change } from "../src/types.ts";
import difference from "./fixtures/difference.json";

// What `netpolq diff config/demo NEW --flows config/demo/flows.jsonl -o json` printed, for NEW without the policy shop/db.
const [cut] = difference.changes as Change[];

describe("changes", () => {
  if (cut === undefined) throw new Error("the fixture has no change");
  const opened: Change = { ...cut, source: "ops/debug", old: cut.new, new: cut.old, seen: { connections: 900, last_seen: "2026-11-29T08:00:49.000Z" } };

  it("lists what would be cut first, however often it was seen", () => {
    expect(cutsFirst([opened, cut, { ...cut, source: "shop/batch", seen: { connections: 99, last_seen: "" } }]).map(({ source }) => source)).toEqual([
      "shop/batch",
      "shop/backend",
      "ops/debug",
    ]);
    expect([isCut(cut), isCut(opened)]).toEqual([true, false]);
  });

  it("gives the reason as netpolq diff does", () => {
    expect(whyOf(cut.old)).toBe("egress allowed by shop/backend, spec.egress[0]; ingress allowed by shop/db, spec.ingress[0]");
    expect(whyOf(cut.new)).toBe("ingress isolated by shop/isolate-all, shop/monitoring");
  });

  it("writes ports and ranges", () => {
    expect(portsOf(cut)).toBe("TCP 5432");
    expect(portsOf({ ...cut, ports: [{ protocol: "UDP", port: 8000, endPort: 8010 }, { protocol: "SCTP" }] })).toBe("UDP 8000-8010, SCTP");
  });
});
