import { Component, type JSX } from "preact";
import { count, counted } from "../format.ts";
import { Time } from "../parts/time.tsx";
import type { Policy } from "../types.ts";
import { isUnused, policyName } from "./words.ts";

interface Properties {
  policy: Policy;
  isSelected: boolean;
  onSelect: (id: string) => void;
}

/** A policy as a row. */
export class PolicyRow extends Component<Properties> {
  override shouldComponentUpdate(next: Properties): boolean {
    return next.policy !== this.props.policy || next.isSelected !== this.props.isSelected;
  }

  render({ policy, isSelected, onSelect }: Properties): JSX.Element {
    return (
      <tr class={isSelected ? "selected" : undefined}>
        <td>
          <button type="button" class="row-button" aria-pressed={isSelected} onClick={() => onSelect(policy.id)}>{policyName(policy)}</button>
        </td>
        <td>{policy.kind}</td>
        <td class="number">{policy.priority ?? "-"}</td>
        <td class="number">{count(policy.selects.pods)}</td>
        <td class="number">{count(policy.connections)}</td>
        <td><Time at={policy.last_hit} /></td>
        <td><Remarks policy={policy} /></td>
      </tr>
    );
  }
}

function Remarks({ policy }: { policy: Policy }): JSX.Element {
  const unused = policy.rules.filter(isUnused).length;
  return (
    <span class="remarks">
      {policy.problem !== null && <span class="tag tag-bad">⚠ problem</span>}
      {policy.audit && <span class="tag tag-audit">audit</span>}
      {policy.selects.pods === 0 && policy.problem === null && <span class="tag">selects no pods</span>}
      {unused > 0 && <span class="tag">{unused === policy.rules.length && unused > 1 ? "no rule used" : counted(unused, "unused rule")}</span>}
    </span>
  );
}
