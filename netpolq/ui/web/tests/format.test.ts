import { describe, expect, it } from "vitest";
import { bytes, count, counted, decisionText, duration, endText, explainQuery, portText, timeOfDay } from "../src/format.ts";
import { end, flow } from "./fixtures/flows.ts";

describe("formats", () => {
  it.each([
    [0, "0 B"],
    [1023, "1023 B"],
    [1536, "1.5 KiB"],
    [1002200, "979 KiB"],
    [5 * 1024 ** 4 * 1024, "5120 TiB"],
    [null, "-"],
  ])("writes %j bytes as %s", (value, text) => expect(bytes(value)).toBe(text));

  it.each([
    [0.00085, "850 µs"],
    [0.012, "12 ms"],
    [1.5, "1.5 s"],
    [75, "75 s"],
    [null, "-"],
  ])("writes %j seconds as %s", (value, text) => expect(duration(value)).toBe(text));

  it("separates thousands and counts nouns", () => {
    expect(count(1234567)).toBe("1,234,567");
    expect(counted(1, "policy", "policies")).toBe("1 policy");
    expect(counted(2, "policy", "policies")).toBe("2 policies");
  });

  it("shows what is no time as it is", () => {
    expect(timeOfDay(null)).toBe("never");
    expect(timeOfDay("soon")).toBe("soon");
  });

  it("names ends and ports", () => {
    expect(endText(end("shop/db-0"))).toBe("shop/db-0");
    expect(endText({ ...end("192.0.2.1"), names: ["www.example.com"] })).toBe("www.example.com");
    expect(portText({ protocol: "ICMP", port: null })).toBe("ICMP");
    expect(explainQuery(flow("1"))).toEqual({ source: "shop/batch-0", destination: "shop/db-0", protocol: "TCP", port: "5432" });
  });

  it("writes decisions as netpolq flows does", () => {
    expect(decisionText("ingress", { isolated_by: ["shop/db", "shop/deny"] })).toBe("ingress isolated by shop/db, shop/deny");
    const rule = { tier: "network-policy", policy: "shop/db", rule: 0, rule_name: null, action: "accept" } as const;
    expect(decisionText("ingress", rule)).toBe("ingress allowed by shop/db, spec.ingress[0]");
    const admin = { tier: "admin", policy: "no-metadata", rule: 2, rule_name: "metadata", action: "deny" } as const;
    expect(decisionText("egress", admin)).toBe("egress denied by admin no-metadata, spec.egress[2] (metadata)");
  });
});
