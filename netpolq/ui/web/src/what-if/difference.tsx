import type { JSX } from "preact";
import { count, counted, workloadText } from "../format.ts";
import { ScrollBox } from "../parts/box.tsx";
import { Time } from "../parts/time.tsx";
import type { Change, WhatIfAnswer } from "../types.ts";
import { cutsFirst, isCut, portsOf, whyOf } from "./changes.ts";

/** The answer: what would be cut first, then what would be allowed, then what could not be compared. */
export function DifferenceView({ answer }: { answer: WhatIfAnswer }): JSX.Element {
  const { difference, cuts, rejections } = answer;
  const changes = cutsFirst(difference.changes);
  const cutChanges = changes.filter(isCut);
  const opened = changes.filter((change) => !isCut(change));
  return (
    <section class="difference" aria-label="What changes">
      <Summary cuts={cuts} isWhole={rejections.length === 0} />
      {rejections.length > 0 && (
        <div class="problem" role="alert">
          {counted(rejections.length, "object")} cannot be used as written:
          <ul>{rejections.map((rejection, index) => <li key={index}>{rejectionText(rejection)}</li>)}</ul>
        </div>
      )}
      {cutChanges.length > 0 && <Changes title="Would be denied" changes={cutChanges} />}
      {opened.length > 0 && <Changes title="Would be allowed" changes={opened} />}
      <p class="muted">
        {difference.compared !== undefined && <>{counted(difference.compared, "record")} compared</>}
        {(difference.not_compared ?? 0) > 0 && (
          <>, {count(difference.not_compared)} not: of workloads that are not in both versions, of protocols without ports, or of addresses that were not recorded</>
        )}
      </p>
      <details class="more">
        <summary>As text, as netpolq diff prints it</summary>
        <ScrollBox label="Text form"><pre>{answer.text}</pre></ScrollBox>
      </details>
    </section>
  );
}

function Summary({ cuts, isWhole }: { cuts: number; isWhole: boolean }): JSX.Element {
  if (cuts > 0) return <p class="verdict-line bad"><span aria-hidden="true">✕ </span>{counted(cuts, "change")} would cut connections that were seen.</p>;
  // What cannot be read may cut connections.
  if (!isWhole) return <p class="verdict-line">Of what can be used, nothing would cut a connection that was seen.</p>;
  return <p class="verdict-line good"><span aria-hidden="true">✓ </span>No connection that was seen would be cut.</p>;
}

function Changes({ title, changes }: { title: string; changes: readonly Change[] }): JSX.Element {
  return (
    <>
      <h2>{title}</h2>
      <ScrollBox label={title}>
        <table>
          <thead>
            <tr>
              <th scope="col">From → to</th>
              <th scope="col">Ports</th>
              <th scope="col" class="number">Connections seen</th>
              <th scope="col">Last seen</th>
              <th scope="col">Now</th>
              <th scope="col">With the change</th>
            </tr>
          </thead>
          <tbody>
            {changes.map((change, index) => (
              <tr key={index}>
                <th scope="row">{workloadText(change.source)} → {workloadText(change.destination)}</th>
                <td>{portsOf(change)}</td>
                <td class="number">{count(change.seen?.connections)}</td>
                <td>{change.seen === undefined ? "-" : <Time at={change.seen.last_seen} />}</td>
                <td>{change.old.connections}: {whyOf(change.old)}</td>
                <td>{change.new.connections}: {whyOf(change.new)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </ScrollBox>
    </>
  );
}

function rejectionText(rejection: unknown): string {
  if (typeof rejection === "string") return rejection;
  if (typeof rejection !== "object" || rejection === null) return String(rejection);
  const { key, document, field, message, consequence } = rejection as Record<string, unknown>;
  const parts = [key || `document ${document}`, field, message].filter((part) => typeof part === "string" && part !== "");
  return `${parts.join(": ")}${typeof consequence === "string" ? ` (${consequence})` : ""}`;
}
