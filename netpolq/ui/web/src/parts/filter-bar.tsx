import type { JSX } from "preact";
import { type Filters, NO_FILTERS, PERIODS_S } from "../address.ts";
import { useKnownNamespaces } from "../known-namespaces.ts";
import { period, VERDICT_WORDS, VERDICTS } from "../format.ts";
import { useRoute } from "../navigation.ts";
import type { Verdict } from "../types.ts";
import { DelayedInput } from "./delayed-input.tsx";

/** The filters of the address, to read and change. `namespaces`: those to choose from. `withEnds`: also ends, port and protocol. */
export function FilterBar({ namespaces, withEnds }: { namespaces: readonly string[]; withEnds: boolean }): JSX.Element {
  const { route, setFilters } = useRoute();
  const { filters } = route;
  const known = useKnownNamespaces(namespaces);
  const choices = [...new Set([...known, ...filters.namespaces])].sort();
  const toggle = (verdict: Verdict): void =>
    setFilters({
      verdicts: filters.verdicts.includes(verdict)
        ? filters.verdicts.filter((other) => other !== verdict)
        : [...filters.verdicts, verdict],
    });
  return (
    <form class="filters" aria-label="Filters" onSubmit={(event) => event.preventDefault()}>
      <label class="field">
        <span class="field-label">Period</span>
        <select value={String(filters.since)} onChange={(event) => setFilters({ since: Number(event.currentTarget.value) })}>
          {PERIODS_S.map((seconds) => <option key={seconds} value={String(seconds)}>{period(seconds)}</option>)}
        </select>
      </label>
      <NamespaceChoice choices={choices} filters={filters} onChange={(names) => setFilters({ namespaces: names })} />
      <fieldset class="field verdicts">
        <legend class="field-label">Verdict</legend>
        {VERDICTS.map((verdict) => (
          <label key={verdict} class={`toggle verdict-${verdict}`} title={VERDICT_WORDS[verdict].meaning}>
            <input type="checkbox" checked={filters.verdicts.includes(verdict)} onChange={() => toggle(verdict)} />
            <span><span aria-hidden="true">{VERDICT_WORDS[verdict].sign}</span> {VERDICT_WORDS[verdict].text}</span>
          </label>
        ))}
      </fieldset>
      <DelayedInput label="Name contains" value={filters.text} placeholder="pod or policy" onChange={(text) => setFilters({ text })} />
      {withEnds && (
        <>
          <DelayedInput label="From workload" value={filters.source} placeholder="shop/web" onChange={(source) => setFilters({ source })} />
          <DelayedInput label="To workload" value={filters.destination} placeholder="shop/db" onChange={(destination) => setFilters({ destination })} />
          <DelayedInput label="Port" class="narrow" value={filters.port} inputMode="numeric" onChange={(port) => setFilters({ port })} />
          <label class="field">
            <span class="field-label">Protocol</span>
            <select value={filters.protocol} onChange={(event) => setFilters({ protocol: event.currentTarget.value })}>
              {["", "TCP", "UDP", "SCTP"].map((name) => <option key={name} value={name}>{name || "any"}</option>)}
            </select>
          </label>
        </>
      )}
      {isLimited(filters) && (
        <button type="button" class="quiet" onClick={() => setFilters({ ...NO_FILTERS, since: filters.since })}>Clear filters</button>
      )}
    </form>
  );
}

/** Whether anything but the period limits what is shown. */
export function isLimited(filters: Filters): boolean {
  return (
    filters.namespaces.length > 0 ||
    filters.verdicts.length > 0 ||
    [filters.text, filters.source, filters.destination, filters.protocol, filters.port].some((text) => text !== "")
  );
}

interface NamespaceProperties {
  choices: readonly string[];
  filters: Filters;
  onChange: (names: string[]) => void;
}

function NamespaceChoice({ choices, filters, onChange }: NamespaceProperties): JSX.Element {
  const { namespaces } = filters;
  const summary = namespaces.length === 0 ? "all" : namespaces.length === 1 ? namespaces[0] : `${namespaces.length} of ${choices.length}`;
  return (
    <div class="field">
      <span class="field-label" id="namespaces-label">Namespaces</span>
      <details
        class="choice"
        onKeyDown={(event) => {
          if (event.key !== "Escape") return;
          event.currentTarget.open = false;
          event.currentTarget.querySelector("summary")?.focus();
        }}
        onFocusOut={(event) => {
          if (event.relatedTarget instanceof Node && !event.currentTarget.contains(event.relatedTarget)) event.currentTarget.open = false;
        }}
      >
        <summary aria-describedby="namespaces-label">{summary}</summary>
        <div class="choice-list">
          {choices.length === 0 && <p class="muted">No namespace has flows.</p>}
          {choices.map((name) => (
            <label key={name}>
              <input
                type="checkbox"
                checked={namespaces.includes(name)}
                onChange={() => onChange(namespaces.includes(name) ? namespaces.filter((other) => other !== name) : [...namespaces, name])}
              />{" "}
              {name}
            </label>
          ))}
        </div>
      </details>
    </div>
  );
}
