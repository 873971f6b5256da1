import type { JSX } from "preact";
import { VERDICT_WORDS, VERDICTS } from "../format.ts";

/** What lines and shapes of the map mean. */
export function Legend(): JSX.Element {
  return (
    <ul class="legend" aria-label="Legend">
      {VERDICTS.map((verdict) => (
        <li key={verdict} title={VERDICT_WORDS[verdict].meaning}>
          <svg width="34" height="10" aria-hidden="true" class={`legend-line line-${verdict}`}>
            <line x1="1" y1="5" x2="33" y2="5" />
          </svg>
          {VERDICT_WORDS[verdict].sign} {VERDICT_WORDS[verdict].text}
        </li>
      ))}
      <li class="muted">a wider line has more connections</li>
    </ul>
  );
}
