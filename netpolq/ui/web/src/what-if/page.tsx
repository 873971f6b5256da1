import type { JSX } from "preact";
import { useRef, useState } from "preact/hooks";
import { errorText, request } from "../api.ts";
import { NODES } from "../documents.ts";
import { period } from "../format.ts";
import { PERIODS_S } from "../address.ts";
import { Empty, Problem } from "../parts/box.tsx";
import type { WhatIfAnswer } from "../types.ts";
import { useStream } from "../use-stream.ts";
import { DifferenceView } from "./difference.tsx";

const MAX_BYTES = 1024 * 1024;

type NewHas = "changes" | "policies";

/** The page What-if: which connections that were seen a change of policies would cut. Nothing in the cluster is changed. */
export function WhatIfPage(): JSX.Element {
  // This stream only tells which agents are missing.
  useStream("/api/stream/nodes", "", NODES);
  const [manifest, setManifest] = useState("");
  const [newHas, setNewHas] = useState<NewHas>("changes");
  const [since, setSince] = useState(3600);
  const [answer, setAnswer] = useState<WhatIfAnswer | null>(null);
  const [problem, setProblem] = useState("");
  const [isAsking, setAsking] = useState(false);
  const [isOver, setOver] = useState(false);
  const file = useRef<HTMLInputElement>(null);

  async function take(files: FileList | null): Promise<void> {
    const texts = await Promise.all([...(files ?? [])].map((one) => one.text()));
    if (texts.length === 0) return;
    setManifest(texts.map((text) => text.trimEnd()).join("\n---\n"));
    setAnswer(null);
  }

  async function ask(): Promise<void> {
    const body = new Blob([manifest]);
    if (manifest.trim() === "" || body.size > MAX_BYTES) {
      setProblem(body.size > MAX_BYTES ? "The manifests have more than 1 MiB: give fewer at once." : "Paste or choose a manifest first.");
      return;
    }
    setAsking(true);
    setProblem("");
    try {
      const response = await request(`/api/what-if?since=${since}&new_has=${newHas}`, {
        method: "POST",
        body: manifest,
        // A form of another site cannot send this header.
        headers: { "Content-Type": "text/plain", "X-Requested-With": "netpolq" },
      });
      setAnswer((await response.json()) as WhatIfAnswer);
    } catch (error) {
      setAnswer(null);
      setProblem(errorText(error));
    }
    setAsking(false);
  }

  return (
    <>
      <form
        class={`what-if ${isOver ? "over" : ""}`}
        aria-label="Change"
        onSubmit={(event) => {
          event.preventDefault();
          void ask();
        }}
        onDragOver={(event) => {
          event.preventDefault();
          setOver(true);
        }}
        onDragLeave={() => setOver(false)}
        onDrop={(event) => {
          event.preventDefault();
          setOver(false);
          void take(event.dataTransfer?.files ?? null);
        }}
      >
        <label class="field wide">
          <span class="field-label">Manifests: paste them here, or drop files</span>
          <textarea
            rows={12}
            spellcheck={false}
            value={manifest}
            placeholder={"apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: db, namespace: shop}\nspec: …"}
            onInput={(event) => setManifest(event.currentTarget.value)}
          />
        </label>
        <div class="filters">
          <input
            ref={file}
            type="file"
            multiple
            hidden
            accept=".yaml,.yml,.json"
            aria-label="Files with manifests"
            onChange={(event) => void take(event.currentTarget.files)}
          />
          <button type="button" onClick={() => file.current?.click()}>Choose files …</button>
          <fieldset class="field radios">
            <legend class="field-label">The manifests are</legend>
            <label><input type="radio" name="new-has" checked={newHas === "changes"} onChange={() => setNewHas("changes")} /> changes: applied to what is there</label>
            <label><input type="radio" name="new-has" checked={newHas === "policies"} onChange={() => setNewHas("policies")} /> all policies of their namespaces: others go</label>
          </fieldset>
          <label class="field">
            <span class="field-label">Connections of the</span>
            <select value={String(since)} onChange={(event) => setSince(Number(event.currentTarget.value))}>
              {PERIODS_S.map((seconds) => <option key={seconds} value={String(seconds)}>{period(seconds)}</option>)}
            </select>
          </label>
          <button type="submit" class="primary" disabled={isAsking}>{isAsking ? "Comparing …" : "Show what it changes"}</button>
        </div>
      </form>
      <Problem text={problem} />
      <div aria-live="polite">{answer !== null && <DifferenceView answer={answer} />}</div>
      {answer === null && problem === "" && !isAsking && (
        <Empty title="See what a change of policies would cut">
          <p>The change is compared with the policies in force, for the connections that were seen. Nothing in the cluster is changed.</p>
        </Empty>
      )}
    </>
  );
}
