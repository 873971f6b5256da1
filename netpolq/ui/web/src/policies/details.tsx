import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { formatHash, NO_FILTERS } from "../address.ts";
import { errorText, request, withQuery } from "../api.ts";
import { count, counted } from "../format.ts";
import { Fact, Problem, ScrollBox } from "../parts/box.tsx";
import { Time } from "../parts/time.tsx";
import type { Policy } from "../types.ts";
import { isUnused, policyName, tierTitle } from "./words.ts";

const ACTIONS = { accept: "✓ accept", deny: "✕ deny", pass: "↷ pass" };

/** The panel about a policy: what it selects, its rules with what they decided, its manifest. */
export function PolicyDetails({ policy, onClose }: { policy: Policy; onClose: () => void }): JSX.Element {
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => heading.current?.focus(), []);
  const { selects, isolated } = policy;
  return (
    <aside
      class="details"
      aria-label="Details of the policy"
      onKeyDown={(event) => {
        if (event.key === "Escape") onClose();
      }}
    >
      <div class="details-head">
        <h2 ref={heading} tabIndex={-1}>{policyName(policy)}</h2>
        <button type="button" class="quiet" onClick={onClose}>Close</button>
      </div>
      <Problem text={policy.problem ?? ""} />
      <dl class="facts">
        <Fact name="Kind">{policy.kind}</Fact>
        <Fact name="Tier">{tierTitle(policy.tier)}{policy.priority !== null && `, priority ${policy.priority}`}</Fact>
        {policy.audit && <Fact name="Audit">It only records what it would decide.</Fact>}
        <Fact name="Selects">
          {counted(selects.pods, "pod")}
          {selects.examples.length > 0 && <>: {selects.examples.join(", ")}{selects.pods > selects.examples.length && " …"}</>}
        </Fact>
        <Fact name="Decided">{counted(policy.connections, "connection")}, last <Time at={policy.last_hit} /></Fact>
        {(["ingress", "egress"] as const).map((direction) => {
          const hits = isolated[direction];
          return hits === null ? null : (
            <Fact key={direction} name={`Isolates ${direction}`}>
              {counted(hits.connections, "connection")} denied{hits.last_hit !== null && <>, last <Time at={hits.last_hit} /></>}
            </Fact>
          );
        })}
      </dl>
      <h3>Rules</h3>
      {policy.rules.length === 0 ? <p class="muted">It has no rules, so it allows nothing in the directions that it isolates.</p> : (
        <ScrollBox label="Rules">
          <table class="small rules">
            <thead>
              <tr><th scope="col">Rule</th><th scope="col">Action</th><th scope="col">What</th><th scope="col" class="number">Connections</th><th scope="col">Last</th></tr>
            </thead>
            <tbody>
              {policy.rules.map((rule) => (
                <tr key={`${rule.direction} ${rule.index}`} class={isUnused(rule) ? "unused" : undefined}>
                  <td>{rule.direction}[{rule.index}]{rule.name !== "" && <span class="muted"> {rule.name}</span>}</td>
                  <td class="nowrap">{ACTIONS[rule.action]}</td>
                  <td>{rule.text}</td>
                  <td class="number">{isUnused(rule) ? <span class="tag">unused</span> : count(rule.connections)}</td>
                  <td><Time at={rule.last_hit} /></td>
                </tr>
              ))}
            </tbody>
          </table>
        </ScrollBox>
      )}
      <p class="links"><a href={formatHash("flows", { ...NO_FILTERS, since: 3600, text: policy.name })}>Show flows that name it</a></p>
      <Manifest id={policy.id} />
    </aside>
  );
}

/** The manifest, which is read when it is first opened. */
function Manifest({ id }: { id: string }): JSX.Element {
  const [text, setText] = useState<string | null>(null);
  const [problem, setProblem] = useState("");
  async function read(): Promise<void> {
    try {
      const answer = await request(withQuery("/api/policies/yaml", new URLSearchParams({ id })));
      setText(await answer.text());
      setProblem("");
    } catch (error) {
      setProblem(errorText(error));
    }
  }
  return (
    <details
      class="more"
      onToggle={(event) => {
        if (event.currentTarget.open && text === null) void read();
      }}
    >
      <summary>Manifest (YAML)</summary>
      <Problem text={problem} />
      {text === null ? problem === "" && <p class="muted">loading …</p> : <ScrollBox label="Manifest"><pre>{text}</pre></ScrollBox>}
    </details>
  );
}
