import type { JSX } from "preact";
import { timeOfDay } from "../format.ts";

/** A moment: the time of day, with the whole RFC 3339 text as its title. */
export function Time({ at }: { at: string | null }): JSX.Element {
  if (at === null) return <span class="muted">never</span>;
  return <time dateTime={at} title={at}>{timeOfDay(at)}</time>;
}
