import type { JSX } from "preact";
import { useMemo } from "preact/hooks";
import { inEvaluationOrder, POLICIES } from "../documents.ts";
import { counted } from "../format.ts";
import { useRoute } from "../navigation.ts";
import { Empty, Problem, ScrollBox } from "../parts/box.tsx";
import { DelayedInput } from "../parts/delayed-input.tsx";
import { Time } from "../parts/time.tsx";
import type { Policy } from "../types.ts";
import { useStream } from "../use-stream.ts";
import { PolicyDetails } from "./details.tsx";
import { PolicyRow } from "./row.tsx";
import { tierTitle } from "./words.ts";

/** The page Policies: all policies in the order of their evaluation, with what they have decided. */
export function PoliciesPage(): JSX.Element {
  const { route, setExtra, setFilters } = useRoute();
  const { document } = useStream("/api/stream/policies", "", POLICIES);
  const all = useMemo(() => (document === null ? [] : inEvaluationOrder(document.items)), [document?.items]);
  const text = route.filters.text.toLowerCase();
  const shown = all.filter((policy) => policy.id.toLowerCase().includes(text));
  const selected = document?.items.get(route.extra.policy ?? "") ?? null;
  if (document === null) return <></>;
  const { head } = document;
  return (
    <>
      <form class="filters" aria-label="Filters" onSubmit={(event) => event.preventDefault()}>
        <DelayedInput label="Name contains" value={route.filters.text} placeholder="shop/db" onChange={(next) => setFilters({ text: next })} />
        <p class="muted filter-note">
          Decisions since <Time at={head.observed_since} />; objects: {head.objects}
        </p>
      </form>
      <Problem text={head.problem ?? ""} />
      {all.length === 0 ? (
        <Empty title="There are no policies">
          <p>Without a policy all connections are allowed. Apply a NetworkPolicy; it shows here within seconds.</p>
        </Empty>
      ) : (
        <div class={selected === null ? "split" : "split split-open"}>
          <div class="split-list">
            {groups(shown).map(([tier, policies]) => (
              <section key={tier} aria-label={tierTitle(tier)}>
                <h2>{tierTitle(tier)} <span class="muted">{counted(policies.length, "policy", "policies")}</span></h2>
                <ScrollBox label={`Policies: ${tierTitle(tier)}`}>
                  <table>
                    <thead>
                      <tr>
                        <th scope="col">Policy</th>
                        <th scope="col">Kind</th>
                        <th scope="col" class="number">Priority</th>
                        <th scope="col" class="number">Pods</th>
                        <th scope="col" class="number">Decided</th>
                        <th scope="col">Last</th>
                        <th scope="col">Remarks</th>
                      </tr>
                    </thead>
                    <tbody>
                      {policies.map((policy) => (
                        <PolicyRow key={policy.id} policy={policy} isSelected={policy.id === selected?.id} onSelect={(id) => setExtra({ policy: id })} />
                      ))}
                    </tbody>
                  </table>
                </ScrollBox>
              </section>
            ))}
            {shown.length === 0 && <Empty title="No policy has this in its name" />}
          </div>
          {selected !== null && <PolicyDetails key={selected.id} policy={selected} onClose={() => setExtra({ policy: "" })} />}
        </div>
      )}
    </>
  );
}

/** Policies by their tier; both in the order of `policies`. */
function groups(policies: readonly Policy[]): [string, Policy[]][] {
  const byTier = new Map<string, Policy[]>();
  for (const policy of policies) byTier.set(policy.tier, [...(byTier.get(policy.tier) ?? []), policy]);
  return [...byTier];
}
