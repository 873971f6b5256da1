import { describe, expect, it } from "vitest";
import { filterQuery, type Filters, formatHash, NO_FILTERS, parseHash } from "../src/address.ts";

const ALL: Filters = {
  since: 900,
  namespaces: ["shop", "ops"],
  verdicts: ["deny", "would-deny"],
  text: "a&b=c #1",
  source: "shop/web",
  destination: "name:www.example.com",
  protocol: "TCP",
  port: "5432",
};

describe("the address", () => {
  it("keeps every filter", () => {
    const extra = { edge: "shop/web|shop/db|deny" };
    expect(parseHash(formatHash("flows", ALL, extra))).toEqual({ page: "flows", filters: ALL, extra });
  });

  it("leaves out what does not limit", () => {
    expect(formatHash("map")).toBe("#/map");
    expect(formatHash("map", { ...NO_FILTERS, text: "web" }, { edge: "" })).toBe("#/map?text=web");
  });

  it.each(["", "#", "#/", "#/nothing", "#/map?since=7&verdict=maybe&namespace=", "#%%%", "#/map?%E0%A4%A"])("shows the map for %j", (hash) => {
    const route = parseHash(hash);
    expect(route.page).toBe("map");
    expect(route.filters).toEqual(NO_FILTERS);
  });

  it("asks the server with the names of its filters", () => {
    expect(filterQuery(ALL).getAll("namespace")).toEqual(["shop", "ops"]);
    expect(filterQuery(ALL).getAll("verdict")).toEqual(["deny", "would-deny"]);
    expect(filterQuery(NO_FILTERS).toString()).toBe("");
  });
});
