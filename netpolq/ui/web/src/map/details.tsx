import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { filterQuery, type Filters, formatHash } from "../address.ts";
import { errorText, getJson } from "../api.ts";
import { byId, newestFirst } from "../documents.ts";
import { count, counted, endText, explainQuery, portText, workloadText } from "../format.ts";
import { Fact, Problem, ScrollBox } from "../parts/box.tsx";
import { Time } from "../parts/time.tsx";
import { VerdictLabel } from "../parts/verdict.tsx";
import type { Edge, Flow, Workload } from "../types.ts";

interface Properties {
  edge: Edge | null;
  workload: Workload | null;
  edges: readonly Edge[];
  filters: Filters;
  onClose: () => void;
  onSelectEdge: (id: string) => void;
}

const SHOWN_FLOWS = 20;
const REFRESH_MS = 5_000;

/** The panel about an edge or a workload: ports, reasons, flows, and ways to the other pages. */
export function Details({ edge, workload, edges, filters, onClose, onSelectEdge }: Properties): JSX.Element {
  const heading = useRef<HTMLHeadingElement>(null);
  const id = edge?.id ?? workload?.id ?? "";
  useEffect(() => heading.current?.focus(), [id]);
  const queries =
    edge !== null
      ? [filterQuery({ ...filters, source: edge.source, destination: edge.destination, verdicts: [edge.verdict] })]
      : [filterQuery({ ...filters, source: id }), filterQuery({ ...filters, destination: id })];
  const { flows, problem } = useFlows(queries.map(String));
  const first = flows?.[0];
  return (
    <section
      class="details"
      aria-label="Details"
      onKeyDown={(event) => {
        if (event.key === "Escape") onClose();
      }}
    >
      <div class="details-head">
        <h2 ref={heading} tabIndex={-1}>{edge === null ? workloadText(id) : <>{workloadText(edge.source)} → {workloadText(edge.destination)}</>}</h2>
        <button type="button" class="quiet" onClick={onClose}>Close</button>
      </div>
      {edge !== null && <EdgeFacts edge={edge} />}
      {workload !== null && <WorkloadFacts workload={workload} edges={edges} onSelectEdge={onSelectEdge} />}
      <p class="links">
        {edge !== null && first !== undefined && <a href={formatHash("explain", undefined, explainQuery(first))}>Explain this connection</a>}
        {edge !== null ? (
          <a href={formatHash("flows", { ...filters, source: edge.source, destination: edge.destination })}>Show its flows</a>
        ) : (
          <>
            <a href={formatHash("flows", { ...filters, source: id })}>Show flows from it</a>
            <a href={formatHash("flows", { ...filters, destination: id })}>Show flows to it</a>
          </>
        )}
      </p>
      <h3>Newest flows</h3>
      <Problem text={problem} />
      {flows === null ? problem === "" && <p class="muted">loading …</p> : <FlowList flows={flows} />}
    </section>
  );
}

function EdgeFacts({ edge }: { edge: Edge }): JSX.Element {
  return (
    <>
      <dl class="facts">
        <Fact name="Verdict"><VerdictLabel verdict={edge.verdict} /></Fact>
        <Fact name="Connections">{count(edge.connections)}</Fact>
        <Fact name="First seen"><Time at={edge.first_seen} /></Fact>
        <Fact name="Last seen"><Time at={edge.last_seen} /></Fact>
      </dl>
      <h3>Why</h3>
      <ul class="plain">{edge.reasons.map((reason) => <li key={reason}>{reason}</li>)}</ul>
      <h3>Ports</h3>
      <table class="small">
        <thead><tr><th scope="col">Port</th><th scope="col" class="number">Connections</th></tr></thead>
        <tbody>
          {edge.ports.map((port) => (
            <tr key={portText(port)}><td>{portText(port)}</td><td class="number">{count(port.connections)}</td></tr>
          ))}
        </tbody>
      </table>
      {edge.more_ports > 0 && <p class="muted">and {counted(edge.more_ports, "more port")}</p>}
    </>
  );
}

interface WorkloadProperties {
  workload: Workload;
  edges: readonly Edge[];
  onSelectEdge: (id: string) => void;
}

function WorkloadFacts({ workload, edges, onSelectEdge }: WorkloadProperties): JSX.Element {
  const own = edges.filter((edge) => edge.source === workload.id || edge.destination === workload.id);
  return (
    <>
      {workload.kind === "workload" && <dl class="facts"><Fact name="Pods">{count(workload.pods)}</Fact></dl>}
      <h3>Connections</h3>
      <ul class="plain">
        {own.map((edge) => (
          <li key={edge.id}>
            <button type="button" class="row-button" onClick={() => onSelectEdge(edge.id)}>
              {edge.source === workload.id ? <>to {workloadText(edge.destination)}</> : <>from {workloadText(edge.source)}</>}
            </button>{" "}
            <VerdictLabel verdict={edge.verdict} /> <span class="muted">{count(edge.connections)}</span>
          </li>
        ))}
      </ul>
    </>
  );
}

function FlowList({ flows }: { flows: readonly Flow[] }): JSX.Element {
  if (flows.length === 0) return <p class="muted">No flow in this period.</p>;
  return (
    <ScrollBox label="Newest flows">
      <table class="small">
        <thead><tr><th scope="col">Last seen</th><th scope="col">From → to</th><th scope="col">Port</th><th scope="col">Verdict</th></tr></thead>
        <tbody>
          {flows.map((flow) => (
            <tr key={flow.id}>
              <td><Time at={flow.last_seen} /></td>
              <td>{endText(flow.source)} → {endText(flow.destination)}</td>
              <td>{portText(flow)}</td>
              <td><VerdictLabel verdict={flow.verdict} /></td>
            </tr>
          ))}
        </tbody>
      </table>
    </ScrollBox>
  );
}

/** The newest flows of some queries, read again while they are shown. */
function useFlows(queries: readonly string[]): { flows: Flow[] | null; problem: string } {
  const [answer, setAnswer] = useState<{ flows: Flow[] | null; problem: string }>({ flows: null, problem: "" });
  const key = queries.join(" ");
  useEffect(() => {
    const closing = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    setAnswer({ flows: null, problem: "" });
    void read();
    return () => {
      closing.abort();
      clearTimeout(timer);
    };

    async function read(): Promise<void> {
      try {
        const answers = await Promise.all(queries.map((text) => {
          const query = new URLSearchParams(text);
          query.set("limit", String(SHOWN_FLOWS));
          return getJson<{ flows: Flow[] }>("/api/flows", query, closing.signal);
        }));
        setAnswer({ flows: newestFirst(byId(answers.flatMap(({ flows }) => flows)), SHOWN_FLOWS), problem: "" });
      } catch (error) {
        if (closing.signal.aborted) return;
        setAnswer((before) => ({ flows: before.flows, problem: errorText(error) }));
      }
      if (!closing.signal.aborted) timer = setTimeout(() => void read(), REFRESH_MS);
    }
  }, [key]);
  return answer;
}
