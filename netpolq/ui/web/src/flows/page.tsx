import type { JSX } from "preact";
import { useMemo, useState } from "preact/hooks";
import { filterQuery, formatHash, NO_FILTERS } from "../address.ts";
import { download, errorText } from "../api.ts";
import { FLOWS, type ListDocument, newestFirst } from "../documents.ts";
import { count, counted, period } from "../format.ts";
import { useRoute } from "../navigation.ts";
import { Empty, Problem, ScrollBox } from "../parts/box.tsx";
import { FilterBar, isLimited } from "../parts/filter-bar.tsx";
import type { Flow, FlowsHead } from "../types.ts";
import { useStream } from "../use-stream.ts";
import { FlowRow } from "./row.tsx";

const MAX_ROWS = 1_000;

/** The page Flows: the newest flows as a live table. */
export function FlowsPage(): JSX.Element {
  const { route } = useRoute();
  const { filters } = route;
  const [isPaused, setPaused] = useState(false);
  const [problem, setProblem] = useState("");
  const [open, setOpen] = useState<string | null>(null);
  const query = filterQuery(filters);
  query.set("limit", String(MAX_ROWS));
  const { document, isCurrent } = useStream("/api/stream/flows", query.toString(), FLOWS, isPaused);
  const flows = useMemo(() => (document === null ? [] : newestFirst(document.items, MAX_ROWS)), [document?.items]);
  const namespaces = useMemo(() => namespacesOf(flows), [flows]);

  async function save(): Promise<void> {
    try {
      await download("/api/flows.csv", filterQuery(filters), "flows.csv");
      setProblem("");
    } catch (error) {
      setProblem(errorText(error));
    }
  }

  return (
    <>
      <FilterBar namespaces={namespaces} withEnds />
      <div class="toolbar">
        <button type="button" aria-pressed={isPaused} onClick={() => setPaused(!isPaused)}>{isPaused ? "Resume" : "Pause"}</button>
        <button type="button" onClick={() => void save()}>Save as CSV</button>
        {document !== null && <Totals document={document} shown={flows.length} />}
      </div>
      <Problem text={problem} />
      {document !== null && (flows.length === 0 ? <NoFlows /> : (
        <ScrollBox label="Flows, newest first" class="flow-table">
          <table aria-busy={!isCurrent}>
            <thead>
              <tr>
                <th scope="col">Last seen</th>
                <th scope="col">Verdict</th>
                <th scope="col">From</th>
                <th scope="col">To</th>
                <th scope="col">Port</th>
                <th scope="col" class="number">Connections</th>
                <th scope="col">Why</th>
                <th scope="col">Node</th>
              </tr>
            </thead>
            <tbody>
              {flows.map((flow) => (
                <FlowRow key={flow.id} flow={flow} isOpen={flow.id === open} onToggle={(id) => setOpen((before) => (before === id ? null : id))} />
              ))}
            </tbody>
          </table>
        </ScrollBox>
      ))}
    </>
  );
}

function Totals({ document, shown }: { document: ListDocument<FlowsHead, Flow>; shown: number }): JSX.Element {
  const { head } = document;
  return (
    <span class="muted">
      {counted(head.flows, "flow")}, {counted(head.connections, "connection")} in the {period(head.since_s)}
      {shown < head.flows && <b> · the newest {count(shown)} are shown; the CSV file has more</b>}
    </span>
  );
}

function NoFlows(): JSX.Element {
  const { route, setFilters } = useRoute();
  const { filters } = route;
  return (
    <Empty title={isLimited(filters) ? "No flow matches the filters" : `No flows in the ${period(filters.since)}`}>
      {isLimited(filters) ? (
        <p><button type="button" onClick={() => setFilters({ ...NO_FILTERS, since: filters.since })}>Clear filters</button></p>
      ) : (
        <p>Only new connections of pods that a policy isolates are recorded. <a href={formatHash("nodes")}>Nodes</a> tells how many pods are.</p>
      )}
    </Empty>
  );
}

function namespacesOf(flows: readonly Flow[]): string[] {
  return [...new Set(flows.flatMap((flow) => [flow.source.namespace, flow.destination.namespace]).filter((name) => name !== null))];
}
