import type { Policy, PolicyRule } from "../types.ts";

const TITLES: Record<string, string> = {
  admin: "1 · Admin tier",
  "network-policy": "2 · NetworkPolicies",
  network: "2 · NetworkPolicies",
  baseline: "3 · Baseline tier",
};

/** The heading of a tier, with its place in the evaluation. */
export function tierTitle(tier: string): string {
  return TITLES[tier] ?? tier;
}

/** The name of a policy with its namespace, if it has one. */
export function policyName(policy: Policy): string {
  return policy.namespace === null ? policy.name : `${policy.namespace}/${policy.name}`;
}

/** Whether no connection has met a rule in the time that is known. */
export function isUnused(rule: PolicyRule): boolean {
  return rule.connections === 0 && rule.last_hit === null;
}
