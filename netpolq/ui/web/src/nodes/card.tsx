import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { bytes, count, counted, duration, shortCount } from "../format.ts";
import { Fact, ScrollBox } from "../parts/box.tsx";
import type { NodeState } from "../types.ts";
import { Plot } from "./plot.tsx";

/** The state of one node: whether its agent is reachable and ready, its versions, workers, losses, and plots. */
export function NodeCard({ node, withPlots }: { node: NodeState; withPlots: boolean }): JSX.Element {
  const [isOpen, setOpen] = useState(withPlots);
  const { history } = node;
  const isBehind = node.snapshot_version !== node.in_force_version;
  return (
    <article class={`card ${node.reachable ? "" : "card-missing"}`} aria-label={`Node ${node.node}`}>
      <header>
        <h2>{node.node}</h2>
        <State node={node} />
      </header>
      {node.problem !== null && <p class="problem">{node.problem}</p>}
      {node.not_ready_reasons.length > 0 && <ul class="problem">{node.not_ready_reasons.map((reason) => <li key={reason}>{reason}</li>)}</ul>}
      {node.source_problems.length > 0 && <ul class="problem">{node.source_problems.map((text) => <li key={text}>{text}</li>)}</ul>}
      <dl class="facts">
        {node.pod !== null && <Fact name="Pod">{node.pod}</Fact>}
        <Fact name="netpolq">{node.version ?? "-"}</Fact>
        <Fact name="Snapshot">{node.snapshot_version ?? "-"}{isBehind ? <b class="bad">, in force {node.in_force_version ?? "-"}</b> : ", in force"}</Fact>
        <Fact name="Until in force">{duration(node.programming_latency_s)}</Fact>
        <Fact name="Isolated pods">{node.isolated === null ? "-" : `${count(node.isolated.ingress)} ingress, ${count(node.isolated.egress)} egress`}</Fact>
        <Fact name="Unjudged packets"><Loss value={node.unjudged_packets} /></Fact>
        <Fact name="Verdict cache">{cacheText(node)}</Fact>
        <Fact name="Flow records">
          {node.flows === null ? "-" : <>{count(node.flows.records)} of {count(node.flows.max_records)}, lost <Loss value={node.flows.lost} />, unrecorded <Loss value={node.flows.unrecorded} /></>}
        </Fact>
      </dl>
      <details class="more" open={isOpen} onToggle={(event) => setOpen(event.currentTarget.open)}>
        <summary>Plots and {counted(node.workers.length, "worker")}</summary>
        {isOpen && (
          <>
            <div class="plots">
              <Plot title="Packets/s" at={history.at} values={history.packets_per_s} format={shortCount} />
              <Plot title="Connections/s" at={history.at} values={history.connections_per_s} format={shortCount} />
              <Plot title="Until in force" at={history.at} values={history.latency_s} format={duration} />
            </div>
            <Workers node={node} />
          </>
        )}
      </details>
    </article>
  );
}

function State({ node }: { node: NodeState }): JSX.Element {
  if (!node.reachable) return <span class="tag tag-bad">⚠ missing</span>;
  return node.ready ? <span class="tag tag-good">✓ ready</span> : <span class="tag tag-bad">⚠ not ready</span>;
}

function Loss({ value }: { value: number | null }): JSX.Element {
  return <span class={value !== null && value > 0 ? "bad" : ""}>{count(value)}</span>;
}

function cacheText({ verdict_cache: cache }: NodeState): string {
  if (cache === null) return "-";
  return cache.enabled ? `${count(cache.entries)} of ${count(cache.size)} entries, ${count(cache.hits)} hits` : "off";
}

function Workers({ node }: { node: NodeState }): JSX.Element {
  return (
    <ScrollBox label={`Workers of ${node.node}`}>
      <table class="small">
        <thead>
          <tr>
            <th scope="col">Worker</th>
            <th scope="col" class="number">Queue</th>
            <th scope="col" class="number">Process</th>
            <th scope="col" class="number">Version</th>
            <th scope="col" class="number">Packets</th>
            <th scope="col" class="number">Restarts</th>
            <th scope="col" class="number">Memory</th>
          </tr>
        </thead>
        <tbody>
          {node.workers.map((worker) => (
            <tr key={worker.slot}>
              <td>{worker.slot}</td>
              <td class="number">{worker.queue_num}</td>
              <td class="number">{worker.pid}</td>
              <td class="number">{worker.acked_version}</td>
              <td class="number">{count(worker.packets)}</td>
              <td class="number"><Loss value={worker.restarts} /></td>
              <td class="number">{bytes(worker.rss_bytes)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </ScrollBox>
  );
}
