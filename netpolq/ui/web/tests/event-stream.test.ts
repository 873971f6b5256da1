// @vitest-environment node
import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, describe, expect, it } from "vitest";
import { EventParser, openStream, type StreamEvent, type StreamStatus } from "../src/event-stream.ts";

describe("the parser of events", () => {
  const TEXT = 'event: state\ndata: {"a":\ndata: 1}\n\n: comment\r\nevent:ping\r\ndata:\r\n\r\ndata: last\n\ndata: not ended\n';
  const EVENTS = [
    { event: "state", data: '{"a":\n1}' },
    { event: "ping", data: "" },
    { event: "message", data: "last" },
  ];

  it.each([1, 2, 3, 7, 1000])("finds the same events in pieces of %i characters", (size) => {
    const parser = new EventParser();
    const found: StreamEvent[] = [];
    for (let at = 0; at < TEXT.length; at += size) found.push(...parser.push(TEXT.slice(at, at + size)));
    expect(found).toEqual(EVENTS);
  });
});

describe("a stream", () => {
  let server: Server | undefined;
  let close: (() => void) | undefined;
  afterEach(() => {
    close?.();
    server?.closeAllConnections();
    server?.close();
  });

  /** Serve each connection with the next of `answers`, and return what the stream told until `enough`. */
  async function follow(answers: ((response: ServerResponse) => void)[], enough: (told: Told) => boolean): Promise<Told> {
    const told: Told = { events: [], statuses: [], asked: [] };
    server = createServer((request, response) => {
      told.asked.push(request.url ?? "");
      (answers.shift() ?? ((last) => last.writeHead(500).end()))(response);
    });
    await new Promise<void>((resolve) => server?.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as AddressInfo;
    await new Promise<void>((resolve) => {
      const check = (): void => {
        if (enough(told)) resolve();
      };
      close = openStream(
        `http://127.0.0.1:${port}/api/stream/map`,
        new URLSearchParams({ since: "60" }),
        (event) => {
          told.events.push(event);
          check();
        },
        (status) => {
          told.statuses.push(status);
          check();
        },
      );
    });
    return told;
  }

  it("connects again after the server has closed it", async () => {
    const once = (data: string) => (response: ServerResponse) => {
      response.writeHead(200, { "Content-Type": "text/event-stream" }).end(`event: state\ndata: ${data}\n\n`);
    };
    const told = await follow([once("1"), once("2")], ({ events }) => events.length === 2);
    expect(told.events.map(({ data }) => data)).toEqual(["1", "2"]);
    expect(told.statuses.map(({ kind }) => kind)).toContain("reconnecting");
    expect(told.asked).toEqual(["/api/stream/map?since=60", "/api/stream/map?since=60"]);
  });

  it("ends with the sentence of the server if the request is refused", async () => {
    const refuse = (response: ServerResponse): void => {
      response.writeHead(400, { "Content-Type": "application/json" }).end('{"error": "since must be 60"}');
    };
    const told = await follow([refuse], ({ statuses }) => statuses.some(({ kind }) => kind === "failed"));
    expect(told.statuses.at(-1)).toEqual({ kind: "failed", reason: "since must be 60" });
    expect(told.asked).toHaveLength(1);
  });

  interface Told {
    events: StreamEvent[];
    statuses: StreamStatus[];
    asked: string[];
  }
});
