import type { JSX } from "preact";
import { useMemo, useRef } from "preact/hooks";
import { filterQuery, formatHash, NO_FILTERS } from "../address.ts";
import { importantFirst, MAP, type MapDocument } from "../documents.ts";
import { counted, period } from "../format.ts";
import { useRoute } from "../navigation.ts";
import { Empty } from "../parts/box.tsx";
import { FilterBar, isLimited } from "../parts/filter-bar.tsx";
import { useStream } from "../use-stream.ts";
import { Canvas } from "./canvas.tsx";
import { Details } from "./details.tsx";
import { EdgeTable } from "./edge-table.tsx";
import type { Selection } from "./graph.ts";
import { Legend } from "./legend.tsx";

/** The page Map: what connects to what, drawn and as a table. */
export function MapPage(): JSX.Element {
  const { route, setExtra } = useRoute();
  const { filters, extra } = route;
  const { document, isCurrent } = useStream("/api/stream/map", filterQuery(filters).toString(), MAP);
  const edges = useMemo(() => (document === null ? [] : importantFirst(document.edges)), [document?.edges]);
  const namespaces = useMemo(() => namespacesOf(document), [document?.nodes]);
  const selection = selectionOf(extra);
  const closed = useRef<string | null>(null);
  const select = (next: Selection | null): void =>
{
    closed.current = next === null && selection?.kind === "edge" ? selection.id : null;
    setExtra({ edge: next?.kind === "edge" ? next.id : "", node: next?.kind === "node" ? next.id : "" });
  };
  const edge = selection?.kind === "edge" ? (document?.edges.get(selection.id) ?? null) : null;
  const workload = selection?.kind === "node" ? (document?.nodes.get(selection.id) ?? null) : null;

  return (
    <>
      <FilterBar namespaces={namespaces} withEnds={false} />
      {document !== null && (
        <div class="map" aria-busy={!isCurrent}>
          <div class="map-graph">
            {document.edges.size === 0 ? <NoConnections /> : <Canvas document={document} selection={selection} onSelect={select} />}
            <div class="map-foot">
              <Legend />
              <Totals document={document} />
            </div>
          </div>
          <aside class="map-side" aria-label="Connections">
            {edge !== null || workload !== null ? (
              <Details
                edge={edge}
                workload={workload}
                edges={edges}
                filters={filters}
                onClose={() => select(null)}
                onSelectEdge={(id) => select({ kind: "edge", id })}
              />
            ) : (
              <>
                {selection !== null && <p class="muted side-note">{selection.id.replaceAll("|", " ")} has no connection in this period.</p>}
                {edges.length > 0 && <EdgeTable edges={edges} returnTo={closed.current} onSelect={(id) => select({ kind: "edge", id })} />}
              </>
            )}
          </aside>
        </div>
      )}
    </>
  );
}

function Totals({ document }: { document: MapDocument }): JSX.Element {
  const { head } = document;
  return (
    <p class="muted">
      {counted(head.connections, "connection")} in the {period(head.since_s)}
      {head.left_out > 0 && (
        <b> · {counted(head.left_out, "connection")} of further workloads not shown: choose namespaces</b>
      )}
    </p>
  );
}

function NoConnections(): JSX.Element {
  const { route, setFilters } = useRoute();
  const { filters } = route;
  const longer = filters.since < 3600;
  return (
    <Empty title={isLimited(filters) ? "No connection matches the filters" : `No connections in the ${period(filters.since)}`}>
      {isLimited(filters) ? (
        <p><button type="button" onClick={() => setFilters({ ...NO_FILTERS, since: filters.since })}>Clear filters</button></p>
      ) : (
        <>
          <p>Agents record new connections of pods that a policy isolates. If there are none:</p>
          <ul>
            <li>No policy may isolate pods here: see <a href={formatHash("policies")}>the policies</a>, and how many pods each node isolates under <a href={formatHash("nodes")}>Nodes</a>.</li>
            <li>The pods may not have opened a connection: those from before are not recorded again.</li>
          </ul>
        </>
      )}
      {longer && <p><button type="button" onClick={() => setFilters({ since: 3600 })}>Show the last hour</button></p>}
    </Empty>
  );
}

function namespacesOf(document: MapDocument | null): string[] {
  const names = [...(document?.nodes.values() ?? [])].flatMap(({ namespace }) => (namespace === null ? [] : [namespace]));
  return [...new Set(names)].sort();
}

function selectionOf(extra: Record<string, string>): Selection | null {
  if (extra.edge) return { kind: "edge", id: extra.edge };
  return extra.node ? { kind: "node", id: extra.node } : null;
}
