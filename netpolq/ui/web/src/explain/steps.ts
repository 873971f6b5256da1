import { compare } from "../documents.ts";
import { decisionText } from "../format.ts";
import type { Explanation, NearMiss, Side } from "../types.ts";

export type DirectionName = "egress" | "ingress";

/**
 * A tier in the evaluation of one direction. `state`: `decides` with its effect, `passes` to the next one, `silent` if nothing in it
 * matches, `skipped` if an earlier one has decided.
 */
export interface Step {
  title: string;
  state: "decides" | "passes" | "silent" | "skipped";
  effect: "accept" | "deny" | null;
  text: string;
  isDeciding: boolean;
}

const TIERS = [
  { tier: "admin", title: "Admin tier" },
  { tier: "network-policy", title: "NetworkPolicies" },
  { tier: "baseline", title: "Baseline tier" },
] as const;

/** The chain of tiers of one direction, and how it ends. The step that makes the verdict of the whole connection is `isDeciding`. */
export function stepsOf(answer: Explanation, direction: DirectionName): Step[] {
  const side = answer[direction];
  const { decision } = side;
  const decidedAt = decision === null ? null : "isolated_by" in decision ? "network-policy" : decision.tier;
  // A denial is made by one direction; an acceptance by both, where policies decide in both.
  const decidesVerdict = answer.verdict === "accept" || answer.direction === direction;
  let isDecided = false;
  const steps = TIERS.map(({ tier, title }): Step => {
    if (isDecided) return { title, state: "skipped", effect: null, text: "not reached", isDeciding: false };
    if (tier === decidedAt && decision !== null) {
      isDecided = true;
      const denies = "isolated_by" in decision || decision.action === "deny";
      return { title, state: "decides", effect: denies ? "deny" : "accept", text: textOf(side, direction, denies), isDeciding: decidesVerdict };
    }
    const passes = side.passes.filter((pass) => pass.tier === tier);
    if (passes.length > 0) {
      return { title, state: "passes", effect: null, text: passes.map((pass) => decisionText(direction, pass)).join("; "), isDeciding: false };
    }
    const silent = tier === "network-policy" ? "no policy isolates the pod" : "no rule matches";
    return { title, state: "silent", effect: null, text: silent, isDeciding: false };
  });
  if (decidedAt === null) {
    steps.push({ title: "Default", state: "decides", effect: "accept", text: "no policy decides, so the connection is allowed", isDeciding: decidesVerdict });
  }
  return steps;
}

function textOf(side: Side, direction: DirectionName, denies: boolean): string {
  const text = decisionText(direction, side.decision);
  if (side.decision !== null && "isolated_by" in side.decision) return `${text}; no rule allows it`;
  return denies || side.isolated_by.length === 0 ? text : `isolated by ${side.isolated_by.join(", ")}; ${text}`;
}

/** Near misses, the smallest addition first: an entry of a rule before a whole rule, then by the order of the server. */
export function smallestFirst(misses: readonly NearMiss[]): NearMiss[] {
  const size = (miss: NearMiss): number => (miss.add === null ? 2 : /\[\d+\]/.test(miss.add.to) ? 0 : 1);
  return misses
    .map((miss, index) => ({ miss, index }))
    .sort((a, b) => size(a.miss) - size(b.miss) || a.index - b.index)
    .map(({ miss }) => miss);
}

const REASONS: Record<string, string> = {
  "not-isolated": "no policy isolates either end",
  allowed: "every isolated end allows it",
  "same-address": "a pod can always reach itself",
  "own-node": "a node can always reach its own pods",
  denied: "a policy denies it",
};

/** The verdict in one sentence. */
export function summaryOf(answer: Explanation): string {
  if (answer.verdict === "drop" && answer.direction !== null) {
    const { decision } = answer[answer.direction];
    const more = decision !== null && "isolated_by" in decision ? ", and nothing allows it" : "";
    return `${decisionText(answer.direction, decision)}${more}`;
  }
  return REASONS[answer.reason] ?? answer.reason;
}

/** Whether tiers were asked at all: some connections are allowed before them. */
export function hasTiers(answer: Explanation): boolean {
  return !["same-address", "own-node"].includes(answer.reason);
}

/** Answers with the denied ones first, then by their destinations. */
export function deniedFirst(answers: readonly Explanation[]): Explanation[] {
  return [...answers].sort(
    (a, b) => Number(a.verdict === "accept") - Number(b.verdict === "accept") || compare(a.destination.address ?? "", b.destination.address ?? ""),
  );
}
