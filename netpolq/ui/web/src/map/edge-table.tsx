import { Component, type JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { count, counted, portText, workloadText } from "../format.ts";
import { ScrollBox } from "../parts/box.tsx";
import { VerdictLabel } from "../parts/verdict.tsx";
import type { Edge } from "../types.ts";

interface Properties {
  edges: readonly Edge[];
  /** The edge whose row gets the focus when the table is shown, after its details were closed. */
  returnTo: string | null;
  onSelect: (id: string) => void;
}

const FIRST_ROWS = 100;

/** The edges of the map as a table: the form of the map for keyboards and screen readers. Up and down move between rows, Enter opens one. */
export function EdgeTable({ edges, returnTo, onSelect }: Properties): JSX.Element {
  const [isWhole, setWhole] = useState(false);
  const [current, setCurrent] = useState<string | null>(returnTo);
  const body = useRef<HTMLTableSectionElement>(null);
  const shown = isWhole ? edges : edges.slice(0, FIRST_ROWS);
  const focusable = shown.some((edge) => edge.id === current) ? current : (shown[0]?.id ?? null);

  useEffect(() => {
    if (returnTo !== null) body.current?.querySelector<HTMLButtonElement>('button[tabindex="0"]')?.focus();
  }, []);

  function onKeyDown(event: KeyboardEvent): void {
    const buttons = [...(body.current?.querySelectorAll("button") ?? [])];
    const at = buttons.indexOf(document.activeElement as HTMLButtonElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    const button = to === undefined ? undefined : buttons[Math.max(0, Math.min(buttons.length - 1, to))];
    if (button === undefined) return;
    event.preventDefault();
    button.focus();
  }

  return (
    <ScrollBox label="Connections of the map" class="edge-table">
      <table>
        <thead>
          <tr>
            <th scope="col">Connection</th>
            <th scope="col">Verdict and ports</th>
            <th scope="col" class="number">Connections</th>
          </tr>
        </thead>
        <tbody ref={body} onKeyDown={onKeyDown}>
          {shown.map((edge) => (
            <EdgeRow
              key={edge.id}
              edge={edge}
              isFocusable={edge.id === focusable}
              onSelect={onSelect}
              onFocus={setCurrent}
            />
          ))}
        </tbody>
      </table>
      {shown.length < edges.length && (
        <button type="button" class="quiet" onClick={() => setWhole(true)}>Show all {counted(edges.length, "row")}</button>
      )}
    </ScrollBox>
  );
}

interface RowProperties {
  edge: Edge;
  isFocusable: boolean;
  onSelect: (id: string) => void;
  onFocus: (id: string) => void;
}

class EdgeRow extends Component<RowProperties> {
  override shouldComponentUpdate(next: RowProperties): boolean {
    return next.edge !== this.props.edge || next.isFocusable !== this.props.isFocusable;
  }

  render({ edge, isFocusable, onSelect, onFocus }: RowProperties): JSX.Element {
    return (
      <tr onClick={() => onSelect(edge.id)}>
        <td>
          <button
            type="button"
            class="row-button"
            tabIndex={isFocusable ? 0 : -1}
            onFocus={() => onFocus(edge.id)}
            onClick={(event) => {
              event.stopPropagation();
              onSelect(edge.id);
            }}
          >
            {workloadText(edge.source)} <span aria-hidden="true">→</span><span class="visually-hidden"> to </span> {workloadText(edge.destination)}
          </button>
        </td>
        <td>
          <VerdictLabel verdict={edge.verdict} />
          <div class="muted">{portsText(edge)}</div>
        </td>
        <td class="number">{count(edge.connections)}</td>
      </tr>
    );
  }
}

function portsText(edge: Edge): string {
  const shown = edge.ports.slice(0, 3).map(portText);
  const more = edge.ports.length - shown.length + edge.more_ports;
  return more > 0 ? `${shown.join(", ")} and ${more} more` : shown.join(", ");
}
