import { Component, type JSX } from "preact";
import { formatHash } from "../address.ts";
import { bytes, count, decisionText, endText, explainQuery, portText } from "../format.ts";
import { Fact } from "../parts/box.tsx";
import { Time } from "../parts/time.tsx";
import { VerdictLabel } from "../parts/verdict.tsx";
import type { End, Flow } from "../types.ts";

interface Properties {
  flow: Flow;
  isOpen: boolean;
  onToggle: (id: string) => void;
}

const COLUMNS = 8;

/** A flow as a row, which opens its details. It is drawn again only if the flow has changed. */
export class FlowRow extends Component<Properties> {
  override shouldComponentUpdate(next: Properties): boolean {
    return next.flow !== this.props.flow || next.isOpen !== this.props.isOpen;
  }

  render({ flow, isOpen, onToggle }: Properties): JSX.Element {
    return (
      <>
        <tr class={isOpen ? "selected" : undefined}>
          <td>
            <button type="button" class="row-button" aria-expanded={isOpen} onClick={() => onToggle(flow.id)}>
              <span class="arrow" aria-hidden="true">{isOpen ? "▾" : "▸"}</span>
              <span class="visually-hidden">Details of the flow last seen at </span>
              <Time at={flow.last_seen} />
            </button>
          </td>
          <td><VerdictLabel verdict={flow.verdict} /></td>
          <td>{endText(flow.source)}</td>
          <td>{endText(flow.destination)}</td>
          <td>{portText(flow)}</td>
          <td class="number">{count(flow.connections)}</td>
          <td class="reason" title={flow.reason}>{flow.reason}</td>
          <td>{flow.node}</td>
        </tr>
        {isOpen && (
          <tr class="opened">
            <td colSpan={COLUMNS}><FlowDetails flow={flow} /></td>
          </tr>
        )}
      </>
    );
  }
}

function FlowDetails({ flow }: { flow: Flow }): JSX.Element {
  const { audit } = flow;
  return (
    <div class="flow-details">
      <EndFacts title="From" end={flow.source} />
      <EndFacts title="To" end={flow.destination} />
      <section>
        <h3>Decisions</h3>
        <ul class="plain">
          <li>{decisionText("egress", flow.egress)}</li>
          <li>{decisionText("ingress", flow.ingress)}</li>
          {audit !== null && (
            <li>
              in audit: {[
                ...(audit.egress ? [decisionText("egress", audit.egress)] : []),
                ...(audit.ingress ? [decisionText("ingress", audit.ingress)] : []),
              ].join("; ") || "no policy in audit decides"}
            </li>
          )}
        </ul>
        <p class="links">
          <a href={formatHash("explain", undefined, explainQuery(flow))}>Explain this connection</a>
        </p>
      </section>
      <section>
        <h3>Traffic</h3>
        <dl class="facts">
          <Fact name="First seen"><Time at={flow.first_seen} /></Fact>
          <Fact name="Connections">{count(flow.connections)}</Fact>
          <Fact name="Packets">{count(flow.packets)}</Fact>
          <Fact name="Bytes">{bytes(flow.bytes)}</Fact>
        </dl>
      </section>
    </div>
  );
}

function EndFacts({ title, end }: { title: string; end: End }): JSX.Element {
  const labels = Object.entries(end.labels);
  return (
    <section>
      <h3>{title}</h3>
      <dl class="facts">
        <Fact name={end.pod === null ? "End" : "Pod"}>{endText(end)}</Fact>
        <Fact name="Address">{end.address}</Fact>
        {end.pod !== null && <Fact name="Workload"><a href={formatHash("map", undefined, { node: end.workload })}>{end.workload}</a></Fact>}
        {end.names.length > 0 && <Fact name="Names">{end.names.join(", ")}</Fact>}
        {labels.length > 0 && (
          <Fact name="Labels">
            <ul class="labels">{labels.map(([name, value]) => <li key={name}>{name}={value}</li>)}</ul>
          </Fact>
        )}
      </dl>
    </section>
  );
}
