/** Shapes of the JSON API. Times are RFC 3339 texts in UTC. */

export type Verdict = "accept" | "deny" | "would-deny" | "would-accept";

export interface Session {
  version: string;
  source: "agent" | "cluster" | "demo";
  where: string;
  authentication: "none" | "token" | "kubernetes";
  user: string | null;
  history_s: number;
}

export interface Agents {
  total: number;
  missing: { node: string; reason: string }[];
}

export interface Head {
  at: string;
  agents?: Agents;
}

export interface Workload {
  id: string;
  namespace: string | null;
  name: string;
  kind: "workload" | "name" | "outside";
  pods: number;
}

export interface Port {
  protocol: string;
  port: number | null;
  connections: number;
}

export interface Edge {
  id: string;
  source: string;
  destination: string;
  verdict: Verdict;
  connections: number;
  first_seen: string;
  last_seen: string;
  ports: Port[];
  more_ports: number;
  reasons: string[];
}

export interface MapHead extends Head {
  since_s: number;
  connections: number;
  left_out: number;
}

export interface End {
  address: string;
  namespace: string | null;
  pod: string | null;
  workload: string;
  names: string[];
  labels: Record<string, string>;
}

export interface RuleDecision {
  tier: string;
  policy: string;
  rule: number;
  rule_name: string | null;
  action: "accept" | "deny" | "pass";
  deny_with?: string;
}

export interface Isolation {
  isolated_by: string[];
  deny_with?: string;
}

export type Decision = RuleDecision | Isolation;

export interface Flow {
  id: string;
  first_seen: string;
  last_seen: string;
  node: string;
  verdict: Verdict;
  source: End;
  destination: End;
  protocol: string;
  port: number | null;
  connections: number;
  packets: number | null;
  bytes: number | null;
  reason: string;
  egress: Decision | null;
  ingress: Decision | null;
  audit: { egress?: Decision | null; ingress?: Decision | null } | null;
}

export interface FlowsHead extends Head {
  since_s: number;
  flows: number;
  shown: number;
  connections: number;
}

export interface Hits {
  connections: number;
  last_hit: string | null;
}

export interface PolicyRule extends Hits {
  direction: "ingress" | "egress";
  index: number;
  name: string;
  action: "accept" | "deny" | "pass";
  text: string;
}

export interface Policy extends Hits {
  id: string;
  kind: string;
  tier: string;
  priority: number | null;
  namespace: string | null;
  name: string;
  audit: boolean;
  selects: { pods: number; examples: string[] };
  isolated: { ingress: Hits | null; egress: Hits | null };
  rules: PolicyRule[];
  problem: string | null;
}

export interface PoliciesHead extends Head {
  observed_since: string;
  objects: string;
  /** Why the objects cannot be read, or null. */
  problem?: string | null;
}

export interface Worker {
  slot: number;
  pid: number;
  queue_num: number;
  acked_version: number;
  packets: number;
  restarts: number;
  rss_bytes: number;
}

export interface History {
  at: number[];
  packets_per_s: (number | null)[];
  latency_s: (number | null)[];
  connections_per_s: (number | null)[];
}

export interface NodeState {
  id: string;
  node: string;
  pod: string | null;
  reachable: boolean;
  problem: string | null;
  version: string | null;
  ready: boolean;
  not_ready_reasons: string[];
  snapshot_version: number | null;
  in_force_version: number | null;
  workers: Worker[];
  unjudged_packets: number | null;
  isolated: { ingress: number; egress: number } | null;
  verdict_cache: { enabled: boolean; entries: number; size: number; hits: number } | null;
  flows: { records: number; max_records: number; lost: number; unrecorded: number } | null;
  programming_latency_s: number | null;
  source_problems: string[];
  history: History;
}

export interface EndChoice {
  id: string;
  kind: "pod" | "workload" | "service" | "address" | "name";
  namespace?: string | null;
}

export interface ExplainEnd {
  address: string | null;
  pod: string | null;
  nodes?: string[];
}

export interface NearMiss {
  policy: string;
  failed: string;
  rule: number | null;
  why: string;
  add: { item: unknown; to: string } | null;
}

export interface Side {
  isolated_by: string[];
  allowed_by: string | null;
  rule: number | null;
  decision: Decision | null;
  passes: RuleDecision[];
  near_misses?: NearMiss[];
}

export interface Explanation {
  verdict: "accept" | "drop";
  direction: "egress" | "ingress" | null;
  tier: string | null;
  policy: string | null;
  reason: string;
  audit?: { verdict: string };
  source: ExplainEnd;
  destination: ExplainEnd;
  protocol: string;
  port: number | null;
  egress: Side;
  ingress: Side;
  notes?: string[];
}

/** The answer for a Service, workload or name: one explanation for each of its destinations. */
export interface Explanations {
  verdict: "accept" | "drop" | "mixed";
  answers: Explanation[];
  notes?: string[];
}

export interface ExplainAnswer {
  answer: Explanation | Explanations;
  text: string;
  objects: string;
}

export interface DifferenceSide {
  connections: string;
  example: {
    source: ExplainEnd;
    destination: ExplainEnd;
    verdict: "accept" | "drop";
    egress: Decision | null;
    ingress: Decision | null;
  } | null;
}

export interface Change {
  source: string;
  destination: string;
  ports: { protocol: string; port?: number | null; endPort?: number | null }[];
  old: DifferenceSide;
  new: DifferenceSide;
  seen?: { connections: number; last_seen: string };
}

export interface WhatIfAnswer {
  difference: {
    changes: Change[];
    compared?: number;
    not_compared?: number;
    workloads: { added: string[]; removed: string[] };
    namespaces: { added: string[]; removed: string[] };
    pods: { added: string[]; removed: string[] };
  };
  text: string;
  cuts: number;
  rejections: unknown[];
}

/** A change of one collection of a document: items to put by their id, and ids to remove. */
export interface ItemsChange<Item> {
  upserted: Item[];
  removed: string[];
}
