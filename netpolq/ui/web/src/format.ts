import type { Decision, End, Flow, Port, Verdict } from "./types.ts";

export const VERDICTS: readonly Verdict[] = ["accept", "deny", "would-deny", "would-accept"];

/** The words and the sign of each verdict. The sign tells verdicts apart without colours. */
export const VERDICT_WORDS: Record<Verdict, { text: string; sign: string; meaning: string }> = {
  accept: { text: "allowed", sign: "✓", meaning: "policies allow the connection" },
  deny: { text: "denied", sign: "✕", meaning: "policies deny the connection" },
  "would-deny": { text: "would be denied", sign: "✕?", meaning: "allowed today; policies in audit would deny it" },
  "would-accept": { text: "would be allowed", sign: "✓?", meaning: "denied today; policies in audit would allow it" },
};

const COUNT = new Intl.NumberFormat("en");
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const TIME = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** A counter with separators, `1,234`; `-` if it is not known. */
export function count(value: number | null | undefined): string {
  return value === null || value === undefined ? "-" : COUNT.format(value);
}

/** A counter in little space, `1.2K`. */
export function shortCount(value: number): string {
  return SHORT.format(value);
}

/** A number with its noun: `1 flow`, `2 flows`. */
export function counted(value: number, noun: string, plural = `${noun}s`): string {
  return `${count(value)} ${value === 1 ? noun : plural}`;
}

/** Bytes with a binary unit, `1.5 MiB`; `-` if they are not known. */
export function bytes(value: number | null): string {
  if (value === null) return "-";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(units.length - 1, value < 1 ? 0 : Math.floor(Math.log2(value) / 10));
  const scaled = value / 1024 ** power;
  return `${power === 0 || scaled >= 100 ? Math.round(scaled) : scaled.toFixed(1)} ${units[power]}`;
}

/** Seconds with a unit that suits them: `850 µs`, `12 ms`, `1.5 s`; `-` if they are not known. */
export function duration(value_s: number | null): string {
  if (value_s === null) return "-";
  if (value_s === 0) return "0 s";
  if (value_s < 0.001) return `${Math.round(value_s * 1e6)} µs`;
  if (value_s < 1) return `${Math.round(value_s * 1e3)} ms`;
  return `${value_s < 10 ? value_s.toFixed(1) : Math.round(value_s)} s`;
}

/** The time of day in the zone of the browser; `never` for null, and the text itself if it is no time. */
export function timeOfDay(time: string | null): string {
  if (time === null) return "never";
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? time : TIME.format(date);
}

/** A period of the filter: `last 5 minutes`. */
export function period(seconds: number): string {
  return seconds >= 3600 ? "last hour" : seconds === 60 ? "last minute" : `last ${seconds / 60} minutes`;
}

/** `TCP 5432`; the protocol alone without a port. */
export function portText(port: Pick<Port, "protocol" | "port">): string {
  return port.port === null ? port.protocol : `${port.protocol} ${port.port}`;
}

/** The name of an end for people: its pod, a learned name, or its address. */
export function endText(end: End): string {
  if (end.pod !== null) return end.namespace === null ? end.pod : `${end.namespace}/${end.pod}`;
  return end.names[0] ?? end.address;
}

/** The id of a workload for people: a learned name without its mark. */
export function workloadText(id: string): string {
  return id.replace(/^name:/, "");
}

/** The end as the explanation of a connection takes it: NAMESPACE/POD, or the address. */
export function endForExplain(end: End): string {
  return end.pod !== null && end.namespace !== null ? `${end.namespace}/${end.pod}` : end.address;
}

/** The query of the page Explain for a flow. */
export function explainQuery(flow: Flow): Record<string, string> {
  return {
    source: endForExplain(flow.source),
    destination: endForExplain(flow.destination),
    protocol: flow.protocol,
    port: flow.port === null ? "" : String(flow.port),
  };
}

/** A decision in words, as `netpolq flows` writes them: `ingress allowed by shop/db, spec.ingress[0]`. */
export function decisionText(direction: string, decision: Decision | null | undefined): string {
  if (!decision) return `${direction}: no policy decides`;
  const answer = decision.deny_with ? ", with an answer to the sender" : "";
  if ("isolated_by" in decision) return `${direction} isolated by ${decision.isolated_by.join(", ")}${answer}`;
  const word = { accept: "allowed", deny: "denied", pass: "passed" }[decision.action];
  const tier = decision.tier === "network-policy" ? "" : `${decision.tier} `;
  const name = decision.rule_name ? ` (${decision.rule_name})` : "";
  return `${direction} ${word} by ${tier}${decision.policy}, spec.${direction}[${decision.rule}]${name}${answer}`;
}
