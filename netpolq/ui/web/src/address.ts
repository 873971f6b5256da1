import { VERDICTS } from "./format.ts";
import type { Verdict } from "./types.ts";

/** Pages, in the order of the navigation. */
export const PAGES = ["map", "flows", "policies", "explain", "what-if", "nodes"] as const;
export type Page = (typeof PAGES)[number];

/** Periods that the server knows, in seconds. */
export const PERIODS_S = [60, 300, 900, 3600] as const;
export const DEFAULT_PERIOD_S = 300;

/** What limits the flows that a page shows. Empty lists and texts do not limit. */
export interface Filters {
  since: number;
  namespaces: string[];
  verdicts: Verdict[];
  text: string;
  source: string;
  destination: string;
  protocol: string;
  port: string;
}

/** What the address shows: a page, its filters, and what is selected or asked on it (`extra`). */
export interface Route {
  page: Page;
  filters: Filters;
  extra: Record<string, string>;
}

export const NO_FILTERS: Filters = {
  since: DEFAULT_PERIOD_S,
  namespaces: [],
  verdicts: [],
  text: "",
  source: "",
  destination: "",
  protocol: "",
  port: "",
};

const OF_FILTERS = new Set(["since", "namespace", "verdict", "text", "source", "destination", "protocol", "port"]);

/** Read the part of an address behind `#`. Anything unknown or invalid is left out, so that any address shows a page. */
export function parseHash(hash: string): Route {
  const [path = "", query = ""] = splitOnce(hash.replace(/^#\/?/, ""), "?");
  const page = PAGES.find((name) => name === path) ?? "map";
  const values = new URLSearchParams(query);
  const since = Number(values.get("since"));
  const extra: Record<string, string> = {};
  for (const [name, value] of values) if (!OF_FILTERS.has(name)) extra[name] = value;
  return {
    page,
    filters: {
      since: PERIODS_S.find((period) => period === since) ?? DEFAULT_PERIOD_S,
      namespaces: unique(values.getAll("namespace")),
      verdicts: VERDICTS.filter((verdict) => values.getAll("verdict").includes(verdict)),
      text: values.get("text") ?? "",
      source: values.get("source") ?? "",
      destination: values.get("destination") ?? "",
      protocol: values.get("protocol") ?? "",
      port: values.get("port") ?? "",
    },
    extra,
  };
}

/** Return the filters as the query that both the address and the server use. Defaults are left out. */
export function filterQuery(filters: Filters): URLSearchParams {
  const query = new URLSearchParams();
  if (filters.since !== DEFAULT_PERIOD_S) query.set("since", String(filters.since));
  for (const namespace of filters.namespaces) query.append("namespace", namespace);
  for (const verdict of filters.verdicts) query.append("verdict", verdict);
  for (const name of ["text", "source", "destination", "protocol", "port"] as const) {
    if (filters[name] !== "") query.set(name, filters[name]);
  }
  return query;
}

/** Return the address of a route, from `#` on. `parseHash` of it gives the same route. */
export function formatHash(page: Page, filters: Filters = NO_FILTERS, extra: Record<string, string> = {}): string {
  const query = filterQuery(filters);
  for (const [name, value] of Object.entries(extra)) if (value !== "") query.set(name, value);
  const text = query.toString();
  return `#/${page}${text === "" ? "" : `?${text}`}`;
}

function splitOnce(text: string, separator: string): [string, string] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + separator.length)];
}

function unique(texts: string[]): string[] {
  return [...new Set(texts.filter((text) => text !== ""))];
}
