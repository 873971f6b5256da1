import type { JSX } from "preact";
import { useMemo } from "preact/hooks";
import { compare, NODES } from "../documents.ts";
import { Empty } from "../parts/box.tsx";
import { useStream } from "../use-stream.ts";
import { NodeCard } from "./card.tsx";

/** With more nodes than this, plots are drawn only for opened ones. */
const MAX_OPEN_PLOTS = 12;

/** The page Nodes: the state of each agent; missing and not ready ones first. */
export function NodesPage(): JSX.Element {
  const { document } = useStream("/api/stream/nodes", "", NODES);
  const nodes = useMemo(
    () =>
      [...(document?.items.values() ?? [])].sort(
        (a, b) => Number(a.reachable) - Number(b.reachable) || Number(a.ready) - Number(b.ready) || compare(a.node, b.node),
      ),
    [document?.items],
  );
  if (document === null) return <></>;
  const known = new Set(nodes.map(({ node }) => node));
  const unseen = (document.head.agents?.missing ?? []).filter(({ node }) => !known.has(node));
  if (nodes.length === 0 && unseen.length === 0) {
    return <Empty title="No agent was found"><p>Check that netpolq run works on the nodes, and that the selector of agents is right.</p></Empty>;
  }
  return (
    <div class="cards">
      {unseen.map(({ node, reason }) => (
        <article key={node} class="card card-missing">
          <h2>{node || "Agents"}</h2>
          <p class="problem">{reason}</p>
        </article>
      ))}
      {nodes.map((node) => <NodeCard key={node.id} node={node} withPlots={nodes.length <= MAX_OPEN_PLOTS} />)}
    </div>
  );
}
