import { createContext } from "preact";
import type { StreamStatus } from "./event-stream.ts";
import type { Head } from "./types.ts";

/** What the line at the top tells about the stream of the page. */
export interface Live {
  status: StreamStatus;
  isPaused: boolean;
  head: Head | null;
}

/** Takes the state of the page's stream to the line at the top. */
export const LiveContext = createContext<{ report: (live: Live) => void }>({ report: () => {} });
