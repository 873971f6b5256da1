import { ApiError, errorText, request, withQuery } from "./api.ts";

/** An event of a stream. `data` is its JSON text. */
export interface StreamEvent {
  event: string;
  data: string;
}

/** What a page tells about its stream. `reason` says why it waits or has ended. */
export interface StreamStatus {
  kind: "connecting" | "live" | "reconnecting" | "failed";
  reason: string;
}

/** Parser of server-sent events (HTML standard, section 9.2), of the fields that the server uses: `event` and `data`. */
export class EventParser {
  private rest = "";
  private event = "";
  private data: string[] = [];

  /** Take the next piece of the stream, of any length, and return the events that end in it. */
  push(piece: string): StreamEvent[] {
    const lines = (this.rest + piece).split(/\r\n|\n|\r(?=[^\n])/);
    this.rest = lines.pop() ?? "";
    const events: StreamEvent[] = [];
    for (const line of lines) this.line(line, events);
    return events;
  }

  private line(line: string, events: StreamEvent[]): void {
    if (line === "") {
      if (this.data.length > 0) events.push({ event: this.event || "message", data: this.data.join("\n") });
      this.event = "";
      this.data = [];
      return;
    }
    const colon = line.indexOf(":");
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.event = value;
    if (field === "data") this.data.push(value);
  }
}

/** The server sends a ping every 15 s; after three that do not come, the connection is given up. */
const SILENCE_MS = 45_000;
const FIRST_WAIT_MS = 500;
const MAX_WAIT_MS = 15_000;

/** A stream that connects again after each failure, with growing waits, until it is closed. The standard EventSource cannot send a token. */
export function openStream(
  path: string,
  query: URLSearchParams,
  onEvent: (event: StreamEvent) => void,
  onStatus: (status: StreamStatus) => void,
): () => void {
  const closing = new AbortController();
  void run();
  return () => closing.abort();

  async function run(): Promise<void> {
    onStatus({ kind: "connecting", reason: "" });
    for (let failures = 0; !closing.signal.aborted; ) {
      try {
        await readOnce(path, query, closing.signal, (event) => {
          failures = 0;
          onStatus({ kind: "live", reason: "" });
          onEvent(event);
        });
      } catch (error) {
        if (closing.signal.aborted) return;
        if (error instanceof ApiError && isFinal(error.status)) {
          onStatus({ kind: "failed", reason: error.message });
          return;
        }
        onStatus({ kind: "reconnecting", reason: errorText(error) });
      }
      if (closing.signal.aborted) return;
      failures += 1;
      await pause(Math.min(MAX_WAIT_MS, FIRST_WAIT_MS * 2 ** failures) * (0.75 + Math.random() / 2), closing.signal);
    }
  }
}

/** Whether the same request would fail again: the server refuses it, and is not merely busy. */
function isFinal(status: number): boolean {
  return status >= 400 && status < 500 && status !== 408 && status !== 429;
}

async function readOnce(
  path: string,
  query: URLSearchParams,
  closing: AbortSignal,
  onEvent: (event: StreamEvent) => void,
): Promise<never> {
  const silence = new AbortController();
  let timer = setTimeout(() => silence.abort(), SILENCE_MS);
  try {
    const response = await request(withQuery(path, query), {
      signal: AbortSignal.any([closing, silence.signal]),
      headers: { Accept: "text/event-stream" },
    });
    if (response.body === null) throw new Error("The server sent no stream.");
    const parser = new EventParser();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new Error("The server has closed the stream.");
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
      for (const event of parser.push(value)) onEvent(event);
    }
  } catch (error) {
    if (silence.signal.aborted) throw new Error("The server has sent nothing for 45 seconds.");
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    }, { once: true });
  });
}
