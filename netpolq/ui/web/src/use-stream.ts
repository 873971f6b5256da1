import { useContext, useEffect, useRef, useState } from "preact/hooks";
import type { Reducer } from "./documents.ts";
import { openStream, type StreamStatus } from "./event-stream.ts";
import { LiveContext } from "./live.ts";
import type { Head } from "./types.ts";

/** The newest document of a stream, and whether it is of the filters that are asked for now. */
export interface Streamed<Document> {
  document: Document | null;
  isCurrent: boolean;
  status: StreamStatus;
}

/**
 * Follow a stream while the component is shown, its tab is visible and `isPaused` is false. The component is drawn at most once per
 * animation frame, with all events that have come until then. After a change of filters the old document stays until the new one comes.
 */
export function useStream<Document extends { head: Head }>(
  path: string,
  query: string,
  reducer: Reducer<Document>,
  isPaused = false,
): Streamed<Document> {
  const live = useContext(LiveContext);
  const isVisible = useVisibility();
  const [shown, setShown] = useState<{ document: Document; address: string } | null>(null);
  const [status, setStatus] = useState<StreamStatus>({ kind: "connecting", reason: "" });
  const newest = useRef<Document | null>(null);
  const address = `${path}?${query}`;

  useEffect(() => live.report({ status, isPaused, head: shown?.document.head ?? null }), [status, isPaused, shown]);

  useEffect(() => {
    if (isPaused || !isVisible) return;
    let frame = 0;
    newest.current = null;
    const close = openStream(
      path,
      new URLSearchParams(query),
      ({ event, data }) => {
        if (event === "state") newest.current = reducer.state(JSON.parse(data));
        else if (event === "change" && newest.current !== null) newest.current = reducer.change(newest.current, JSON.parse(data));
        else return;
        if (frame === 0) frame = requestAnimationFrame(draw);
      },
      setSame,
    );
    return () => {
      close();
      cancelAnimationFrame(frame);
    };

    function draw(): void {
      frame = 0;
      if (newest.current !== null) setShown({ document: newest.current, address });
    }
    function setSame(next: StreamStatus): void {
      setStatus((before) => (before.kind === next.kind && before.reason === next.reason ? before : next));
    }
  }, [address, isPaused, isVisible, reducer]);

  return { document: shown?.document ?? null, isCurrent: shown?.address === address, status };
}

function useVisibility(): boolean {
  const [isVisible, setVisible] = useState(!document.hidden);
  useEffect(() => {
    const update = (): void => setVisible(!document.hidden);
    document.addEventListener("visibilitychange", update);
    return () => document.removeEventListener("visibilitychange", update);
  }, []);
  return isVisible;
}
