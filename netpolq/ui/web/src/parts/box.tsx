import type { ComponentChildren, JSX } from "preact";

/** A box that scrolls its content, with keys too, so that the page itself never scrolls sideways. */
export function ScrollBox({ label, children, class: name = "" }: { label: string; children: ComponentChildren; class?: string }): JSX.Element {
  return (
    <div class={`scroll-box ${name}`} role="region" aria-label={label} tabIndex={0}>
      {children}
    </div>
  );
}

/** What a page shows where there is nothing to show: why, and what to do. */
export function Empty({ title, children }: { title: string; children?: ComponentChildren }): JSX.Element {
  return (
    <div class="empty">
      <p class="empty-title">{title}</p>
      {children}
    </div>
  );
}

/** A sentence about something that failed. It is read aloud when it appears. */
export function Problem({ text }: { text: string }): JSX.Element | null {
  return text === "" ? null : <p class="problem" role="alert">{text}</p>;
}

/** A name and its value in a list of facts. */
export function Fact({ name, children }: { name: string; children: ComponentChildren }): JSX.Element {
  return (
    <div class="fact">
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}
