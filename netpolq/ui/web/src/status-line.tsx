import type { JSX } from "preact";
import { counted } from "./format.ts";
import type { Live } from "./live.ts";
import { Time } from "./parts/time.tsx";
import type { Agents, Session } from "./types.ts";

interface Properties {
  session: Session | null;
  problem: string;
  live: Live | null;
}

/** The line below the navigation: whether data is live, of when it is, which agents are missing, and that it is made up if it is. */
export function StatusLine({ session, problem, live }: Properties): JSX.Element {
  const missing = live?.head?.agents?.missing ?? [];
  const total = live?.head?.agents?.total ?? 0;
  return (
    <div class="status-line">
      {session?.source === "demo" && <span class="mark mark-demo"><b>Demonstration</b>: the cluster and its connections are made up</span>}
      <span class="mark" role="status">
        <StreamState session={session} problem={problem} live={live} />
      </span>
      {missing.length === 0 && total > 0 && <span class="mark">{counted(total, "agent")}, none missing</span>}
      {missing.length > 0 && (
        <details class="mark mark-missing">
          <summary>
            <span aria-hidden="true">⚠ </span>
            {missingText(missing, total)}
          </summary>
          <ul>
            {missing.map(({ node, reason }) => <li key={node}>{node !== "" && <b>{node}: </b>}{reason}</li>)}
          </ul>
        </details>
      )}
    </div>
  );
}

const MAX_NAMED = 3;

/** An entry without a node says why agents cannot be found at all. */
function missingText(missing: Agents["missing"], total: number): string {
  const nodes = missing.map(({ node }) => node).filter((node) => node !== "");
  if (nodes.length === 0) return "Agents cannot be found";
  const more = nodes.length > MAX_NAMED ? " …" : "";
  return `${nodes.length} of ${counted(total, "agent")} missing: ${nodes.slice(0, MAX_NAMED).join(", ")}${more}`;
}

function StreamState({ session, problem, live }: Properties): JSX.Element {
  if (session === null) return problem === "" ? <>connecting …</> : <b class="bad">{problem} Trying again …</b>;
  if (live === null) return <>connecting …</>;
  const at = live.head === null ? null : <>, data of <Time at={live.head.at} /></>;
  if (live.isPaused) return <><span class="dot dot-paused" aria-hidden="true" />paused{at}</>;
  switch (live.status.kind) {
    case "live":
      return <><span class="dot dot-live" aria-hidden="true" />live</>;
    case "connecting":
      return <><span class="dot dot-waiting" aria-hidden="true" />connecting …</>;
    case "reconnecting":
      return <><span class="dot dot-waiting" aria-hidden="true" /><b class="bad">reconnecting{at}.</b> {live.status.reason}</>;
    case "failed":
      return <><span class="dot dot-failed" aria-hidden="true" /><b class="bad">no data:</b> {live.status.reason}</>;
  }
}
