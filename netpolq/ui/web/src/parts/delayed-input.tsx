import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

interface Properties {
  label: string;
  value: string;
  placeholder?: string;
  inputMode?: "numeric" | "text";
  class?: string;
  onChange: (value: string) => void;
}

const WAIT_MS = 250;

/** A text field that tells its value once typing pauses, so that not every key asks the server. */
export function DelayedInput({ label, value, placeholder, inputMode, class: name = "", onChange }: Properties): JSX.Element {
  const [text, setText] = useState(value);
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  // A value that this field has told comes back and is no news. This is no effect: one would run after the next key, and take it back.
  const told = useRef(value);
  if (value !== told.current) {
    told.current = value;
    setText(value);
  }
  useEffect(() => () => clearTimeout(timer.current), []);
  const tell = (next: string): void => {
    clearTimeout(timer.current);
    if (next.trim() === told.current) return;
    told.current = next.trim();
    onChange(told.current);
  };
  return (
    <label class={`field ${name}`}>
      <span class="field-label">{label}</span>
      <input
        type="text"
        value={text}
        placeholder={placeholder}
        inputMode={inputMode}
        autoComplete="off"
        spellcheck={false}
        onInput={(event) => {
          const next = event.currentTarget.value;
          setText(next);
          clearTimeout(timer.current);
          timer.current = setTimeout(() => tell(next), WAIT_MS);
        }}
        onBlur={() => tell(text)}
        onKeyDown={(event) => {
          if (event.key === "Enter") tell(text);
        }}
      />
    </label>
  );
}
