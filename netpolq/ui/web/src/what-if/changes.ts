import { compare } from "../documents.ts";
import { decisionText } from "../format.ts";
import type { Change, DifferenceSide } from "../types.ts";

/** Whether connections that are allowed now would be denied. */
export function isCut(change: Change): boolean {
  return change.new.example?.verdict === "drop";
}

/** Cuts first, then what would be allowed; both by the connections that were seen. */
export function cutsFirst(changes: readonly Change[]): Change[] {
  return [...changes].sort(
    (a, b) =>
      Number(isCut(b)) - Number(isCut(a)) ||
      (b.seen?.connections ?? 0) - (a.seen?.connections ?? 0) ||
      compare(`${a.source} ${a.destination}`, `${b.source} ${b.destination}`),
  );
}

/** The ports of a change: `TCP 5432, TCP 8000-8010`. */
export function portsOf(change: Change): string {
  return change.ports
    .map(({ protocol, port, endPort }) => {
      if (port === undefined || port === null) return protocol;
      return endPort === undefined || endPort === null || endPort === port ? `${protocol} ${port}` : `${protocol} ${port}-${endPort}`;
    })
    .join(", ");
}

/** What decides in one version, in words. */
export function whyOf(side: DifferenceSide): string {
  const { example } = side;
  if (example === null) return "no policy decides";
  const parts = (["egress", "ingress"] as const).flatMap((direction) => {
    const decision = example[direction];
    const denies = decision !== null && ("isolated_by" in decision || decision.action === "deny");
    return decision === null || (example.verdict === "drop" && !denies) ? [] : [decisionText(direction, decision)];
  });
  return parts.join("; ") || "no policy decides";
}
