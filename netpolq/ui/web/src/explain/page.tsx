import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { errorText, getJson } from "../api.ts";
import { NODES } from "../documents.ts";
import { useRoute } from "../navigation.ts";
import { Empty, Problem, ScrollBox } from "../parts/box.tsx";
import { Combobox } from "../parts/combobox.tsx";
import type { EndChoice, ExplainAnswer, Explanation } from "../types.ts";
import { useStream } from "../use-stream.ts";
import { AnswerView } from "./answer.tsx";
import { deniedFirst } from "./steps.ts";

const PROTOCOLS = ["TCP", "UDP", "SCTP", "ICMP", "ICMPv6"];
const WITH_PORTS = ["TCP", "UDP", "SCTP"];

/** The page Explain: which policies decide a connection. The question is in the address. */
export function ExplainPage(): JSX.Element {
  // The question is on this page's own; its stream only tells which agents are missing.
  useStream("/api/stream/nodes", "", NODES);
  const { route, setFilters, setExtra } = useRoute();
  const { filters, extra } = route;
  const asked = { source: filters.source, destination: filters.destination, protocol: filters.protocol || "TCP", port: filters.port };
  const [form, setForm] = useState(asked);
  const [answer, setAnswer] = useState<ExplainAnswer | null>(null);
  const [problem, setProblem] = useState("");
  const [isAsking, setAsking] = useState(false);
  const key = JSON.stringify([asked, extra.asked ?? ""]);

  useEffect(() => {
    setForm(asked);
    if (asked.source === "" || asked.destination === "") return;
    const asking = new AbortController();
    setAsking(true);
    const query = new URLSearchParams({ source: asked.source, destination: asked.destination, protocol: asked.protocol });
    if (asked.port !== "" && WITH_PORTS.includes(asked.protocol)) query.set("port", asked.port);
    getJson<ExplainAnswer>("/api/explain", query, asking.signal).then(
      (found) => show(found, ""),
      (error: unknown) => {
        if (!asking.signal.aborted) show(null, errorText(error));
      },
    );
    return () => asking.abort();

    function show(found: ExplainAnswer | null, text: string): void {
      setAnswer(found);
      setProblem(text);
      setAsking(false);
    }
  }, [key]);

  const hasPort = WITH_PORTS.includes(form.protocol);
  return (
    <>
      <form
        class="filters question"
        aria-label="Question"
        onSubmit={(event) => {
          event.preventDefault();
          if (form.source === "" || form.destination === "") {
            setProblem("Choose both ends of the connection: a pod as shop/web-0, or an address.");
            return;
          }
          setFilters({ ...form, port: hasPort ? form.port : "" });
          // The same question again is asked again: policies may have changed.
          setExtra({ asked: String((Number(extra.asked) || 0) + 1) });
        }}
      >
        <Combobox label="From" value={form.source} placeholder="shop/web-0 or an address" find={findEnds} onChange={(source) => setForm((before) => ({ ...before, source }))} />
        <Combobox label="To" value={form.destination} placeholder="shop/db-0 or an address" find={findEnds} onChange={(destination) => setForm((before) => ({ ...before, destination }))} />
        <label class="field">
          <span class="field-label">Protocol</span>
          <select value={form.protocol} onChange={(event) => setForm({ ...form, protocol: event.currentTarget.value })}>
            {PROTOCOLS.map((name) => <option key={name} value={name}>{name}</option>)}
          </select>
        </label>
        <label class="field narrow">
          <span class="field-label">Port</span>
          <input
            type="text"
            value={hasPort ? form.port : ""}
            disabled={!hasPort}
            placeholder="5432"
            autoComplete="off"
            onInput={(event) => setForm({ ...form, port: event.currentTarget.value.trim() })}
          />
        </label>
        <button type="submit" class="primary">Explain</button>
      </form>
      <Problem text={problem} />
      <div aria-live="polite" aria-busy={isAsking}>
        {answer !== null && problem === "" && <Answers answer={answer} />}
      </div>
      {answer === null && problem === "" && !isAsking && (
        <Empty title="Ask why a connection is allowed or denied">
          <p>Choose two ends, a protocol and a port. No packet is sent: the policies of the cluster are evaluated.</p>
        </Empty>
      )}
    </>
  );
}

function Answers({ answer }: { answer: ExplainAnswer }): JSX.Element {
  const whole = answer.answer;
  const answers: Explanation[] = "answers" in whole ? deniedFirst(whole.answers) : [whole];
  return (
    <>
      {"answers" in whole && (
        <p class="verdict-line">
          <b>{{ accept: "All destinations are allowed", drop: "All destinations are denied", mixed: "Some destinations are denied" }[whole.verdict]}</b>
          {" "}({answers.filter(({ verdict }) => verdict === "accept").length} of {answers.length} allowed)
        </p>
      )}
      {answers.map((one, index) => <AnswerView key={index} answer={one} />)}
      {(whole.notes ?? []).map((note) => <p key={note} class="muted">Note: {note}</p>)}
      <p class="muted">Policies {answer.objects}</p>
      <details class="more">
        <summary>As text, as netpolq explain prints it</summary>
        <ScrollBox label="Text form"><pre>{answer.text}</pre></ScrollBox>
      </details>
    </>
  );
}

async function findEnds(text: string, signal: AbortSignal): Promise<EndChoice[]> {
  const { ends } = await getJson<{ ends: EndChoice[] }>("/api/ends", new URLSearchParams({ text, limit: "50" }), signal);
  return ends;
}
