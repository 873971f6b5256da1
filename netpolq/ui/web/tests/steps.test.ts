import { describe, expect, it } from "vitest";
import { smallestFirst, stepsOf, summaryOf } from "../src/explain/steps.ts";
import type { Explanation } from "../src/types.ts";
import admin from "./fixtures/explain-admin.json";
import allowed from "./fixtures/explain-allowed.json";
import denied from "./fixtures/explain-denied.json";
import passed from "./fixtures/explain-passed.json";

// The fixtures are what `netpolq explain --manifests config/demo -o json` printed.
const states = (answer: unknown, direction: "egress" | "ingress"): string[] =>
  stepsOf(answer as Explanation, direction).map(({ title, state, isDeciding }) => `${title}: ${state}${isDeciding ? "!" : ""}`);

describe("the chain of tiers", () => {
  it("marks the isolation that denies, and not the other direction", () => {
    expect(states(denied, "ingress")).toEqual(["Admin tier: silent", "NetworkPolicies: decides!", "Baseline tier: skipped"]);
    expect(states(denied, "egress")).toEqual(["Admin tier: silent", "NetworkPolicies: silent", "Baseline tier: silent", "Default: decides"]);
    expect(summaryOf(denied as Explanation)).toBe("ingress isolated by shop/db, shop/isolate-all, shop/monitoring, and nothing allows it");
  });

  it("marks both directions of an allowed connection", () => {
    expect(states(allowed, "egress")).toEqual(["Admin tier: silent", "NetworkPolicies: decides!", "Baseline tier: skipped"]);
    expect(states(allowed, "ingress")[1]).toBe("NetworkPolicies: decides!");
    expect(stepsOf(allowed as Explanation, "ingress")[1]?.effect).toBe("accept");
  });

  it("shows a pass before the tier that decides", () => {
    expect(states(passed, "egress")).toEqual(["Admin tier: passes", "NetworkPolicies: decides!", "Baseline tier: skipped"]);
  });

  it("does not reach NetworkPolicies behind a denial of the Admin tier", () => {
    expect(states(admin, "egress")).toEqual(["Admin tier: decides!", "NetworkPolicies: skipped", "Baseline tier: skipped"]);
    expect(stepsOf(admin as Explanation, "egress")[0]?.effect).toBe("deny");
  });

  it("puts the smallest addition first: an entry of a rule before a rule", () => {
    const [first, ...others] = smallestFirst((denied as Explanation).ingress.near_misses ?? []);
    expect(first?.add?.to).toBe("spec.ingress[0].from");
    expect(first?.policy).toBe("shop/db");
    expect(others.at(-1)?.add?.to).toBe("spec.ingress");
  });
});
