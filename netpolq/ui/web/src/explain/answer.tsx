import type { JSX } from "preact";
import { ScrollBox } from "../parts/box.tsx";
import { VerdictLabel } from "../parts/verdict.tsx";
import { portText } from "../format.ts";
import type { Explanation, ExplainEnd, NearMiss } from "../types.ts";
import { type DirectionName, hasTiers, smallestFirst, type Step, stepsOf, summaryOf } from "./steps.ts";

const DIRECTIONS: { direction: DirectionName; title: string }[] = [
  { direction: "egress", title: "Egress: may the source send it?" },
  { direction: "ingress", title: "Ingress: may the destination receive it?" },
];

/** The explanation of one connection: verdict, the chain of tiers in both directions, and what would allow it. */
export function AnswerView({ answer }: { answer: Explanation }): JSX.Element {
  return (
    <article class={`answer answer-${answer.verdict}`}>
      <header>
        <VerdictLabel verdict={answer.verdict === "accept" ? "accept" : "deny"} />{" "}
        <b>{endName(answer.source)} → {endName(answer.destination)}</b>, {portText(answer)}
        <p>{summaryOf(answer)}</p>
        {answer.audit !== undefined && <p>In audit: <b>{answer.audit.verdict}</b> if policies in audit were enforced.</p>}
      </header>
      {hasTiers(answer) && (
        <div class="chains">
          {DIRECTIONS.map(({ direction, title }) => (
            <section key={direction} class="chain" aria-label={title}>
              <h2>{title}</h2>
              <ol>{stepsOf(answer, direction).map((step) => <StepView key={step.title} step={step} />)}</ol>
              <Misses direction={direction} misses={answer[direction].near_misses ?? []} />
            </section>
          ))}
        </div>
      )}
    </article>
  );
}

function StepView({ step }: { step: Step }): JSX.Element {
  const sign = { accept: "✓", deny: "✕" }[step.effect ?? "accept"];
  return (
    <li class={`step step-${step.state} ${step.effect === null ? "" : `step-${step.effect}`} ${step.isDeciding ? "step-deciding" : ""}`}>
      <span class="step-sign" aria-hidden="true">{step.state === "decides" ? sign : step.state === "passes" ? "↷" : "·"}</span>
      <div>
        <b>{step.title}</b>
        {step.isDeciding && <span class="tag tag-deciding">decides</span>}
        <p>{step.text}</p>
      </div>
    </li>
  );
}

function Misses({ direction, misses }: { direction: DirectionName; misses: readonly NearMiss[] }): JSX.Element | null {
  const [first] = smallestFirst(misses);
  if (first === undefined) return null;
  return (
    <div class="misses">
      <h3>Why no rule allows it</h3>
      <ul class="plain">
        {misses.map((miss) => (
          <li key={miss.policy} class={miss === first ? "nearest" : undefined}>
            <b>{miss.policy}</b>{miss === first && misses.length > 1 && <span class="tag">nearest</span>}
            <p>{miss.why}</p>
          </li>
        ))}
      </ul>
      {first.add !== null && (
        <>
          <h3>Smallest addition that allows the {direction}</h3>
          <p>Add this to <code>{first.add.to}</code> of <b>{first.policy}</b>:</p>
          <ScrollBox label={`Smallest addition for ${direction}`}><pre>{JSON.stringify(first.add.item, null, 2)}</pre></ScrollBox>
        </>
      )}
    </div>
  );
}

function endName(end: ExplainEnd): string {
  if (end.pod === null) return end.address ?? "unknown";
  return end.address === null ? end.pod : `${end.pod} (${end.address})`;
}
