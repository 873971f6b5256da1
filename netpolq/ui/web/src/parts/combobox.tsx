import type { JSX } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import type { EndChoice } from "../types.ts";

interface Properties {
  label: string;
  value: string;
  placeholder: string;
  /** Find choices for a text. It may be called while an earlier call has not ended; `signal` then ends that one. */
  find: (text: string, signal: AbortSignal) => Promise<EndChoice[]>;
  onChange: (value: string) => void;
}

const WAIT_MS = 150;

/** A text field with a list of suggestions: the ARIA pattern of an editable combobox. Any text is allowed, such as an address. */
export function Combobox({ label, value, placeholder, find, onChange }: Properties): JSX.Element {
  const id = useId();
  const [text, setText] = useState(value);
  const [choices, setChoices] = useState<EndChoice[]>([]);
  const [active, setActive] = useState(-1);
  const [isOpen, setOpen] = useState(false);
  const asked = useRef<AbortController | null>(null);
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  const list = useRef<HTMLUListElement>(null);

  // A value that this field has told comes back and is no news. This is no effect: one would run after the next key, and take it back.
  const told = useRef(value);
  if (value !== told.current) {
    told.current = value;
    setText(value);
  }
  useEffect(() => () => stop(), []);
  useEffect(() => list.current?.children[active]?.scrollIntoView({ block: "nearest" }), [active]);

  function tell(next: string): void {
    told.current = next;
    onChange(next);
  }

  function stop(): void {
    clearTimeout(timer.current);
    asked.current?.abort();
  }

  function ask(next: string, wait_ms: number): void {
    stop();
    const asking = new AbortController();
    asked.current = asking;
    timer.current = setTimeout(() => {
      find(next, asking.signal).then(
        (found) => {
          if (asking.signal.aborted) return;
          setChoices(found);
          setActive(-1);
          setOpen(true);
        },
        () => {
          // Without suggestions the field still takes a text; an error shows when the question is asked.
          if (!asking.signal.aborted) setChoices([]);
        },
      );
    }, wait_ms);
  }

  function choose(choice: EndChoice): void {
    stop();
    setText(choice.id);
    setOpen(false);
    setActive(-1);
    tell(choice.id);
  }

  function move(to: number): void {
    if (!isOpen) {
      ask(text, 0);
      return;
    }
    if (choices.length > 0) setActive((to + choices.length) % choices.length);
  }

  function onKeyDown(event: KeyboardEvent): void {
    const choice = choices[active];
    if (event.key === "ArrowDown") move(active + 1);
    else if (event.key === "ArrowUp") move(active < 0 ? choices.length - 1 : active - 1);
    else if (event.key === "Enter" && isOpen && choice !== undefined) choose(choice);
    else if (event.key === "Escape" && isOpen) {
      stop();
      setOpen(false);
      setActive(-1);
    } else return;
    event.preventDefault();
  }

  return (
    <div class="field combobox">
      <label class="field-label" for={`${id}-input`}>{label}</label>
      <input
        id={`${id}-input`}
        type="text"
        role="combobox"
        aria-expanded={isOpen && choices.length > 0}
        aria-controls={`${id}-list`}
        aria-autocomplete="list"
        aria-activedescendant={isOpen && active >= 0 ? `${id}-${active}` : undefined}
        autoComplete="off"
        spellcheck={false}
        placeholder={placeholder}
        value={text}
        onFocus={(event) => event.currentTarget.select()}
        onInput={(event) => {
          const next = event.currentTarget.value;
          setText(next);
          tell(next.trim());
          ask(next.trim(), WAIT_MS);
        }}
        onKeyDown={onKeyDown}
        onBlur={() => {
          stop();
          setOpen(false);
          setActive(-1);
        }}
      />
      <ul id={`${id}-list`} role="listbox" aria-label={label} ref={list} hidden={!isOpen || choices.length === 0}>
        {choices.map((choice, index) => (
          <li
            key={`${choice.kind} ${choice.id}`}
            id={`${id}-${index}`}
            role="option"
            aria-selected={index === active}
            onMouseDown={(event) => {
              // The field keeps the focus, so that its blur does not close the list before the click.
              event.preventDefault();
              choose(choice);
            }}
          >
            <span>{choice.id}</span> <span class="muted">{choice.kind}</span>
          </li>
        ))}
      </ul>
    </div>
  );
}
