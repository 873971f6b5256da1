import type { JSX } from "preact";
import { VERDICT_WORDS } from "../format.ts";
import type { Verdict } from "../types.ts";

/** A verdict as a coloured label with its sign and words. */
export function VerdictLabel({ verdict }: { verdict: Verdict }): JSX.Element {
  const { sign, text, meaning } = VERDICT_WORDS[verdict] ?? { sign: "?", text: verdict, meaning: "" };
  return (
    <span class={`verdict verdict-${verdict}`} title={meaning}>
      <span class="sign" aria-hidden="true">{sign}</span> {text}
    </span>
  );
}
