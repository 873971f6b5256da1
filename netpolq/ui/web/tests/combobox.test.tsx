import { type JSX, render } from "preact";
import { useState } from "preact/hooks";
import { act } from "preact/test-utils";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Combobox } from "../src/parts/combobox.tsx";
import type { EndChoice } from "../src/types.ts";

const CHOICES: EndChoice[] = [
  { id: "shop/web-0", kind: "pod" },
  { id: "shop/web-1", kind: "pod" },
  { id: "service/shop/web", kind: "service" },
];

describe("the combobox", () => {
  let root: HTMLElement;
  let values: string[];
  let asked: string[];
  let set: (value: string) => void;

  beforeEach(() => {
    vi.useFakeTimers();
    root = document.createElement("div");
    document.body.append(root);
    values = [];
    asked = [];
    const find = (text: string): Promise<EndChoice[]> => {
      asked.push(text);
      return Promise.resolve(CHOICES.filter(({ id }) => id.includes(text)));
    };
    function Owner(): JSX.Element {
      const [value, setValue] = useState("");
      const change = (next: string): void => {
        values.push(next);
        setValue(next);
      };
      set = setValue;
      return <Combobox label="From" value={value} placeholder="" find={find} onChange={change} />;
    }
    act(() => render(<Owner />, root));
  });
  afterEach(() => {
    render(null, root);
    root.remove();
    vi.useRealTimers();
  });

  const input = (): HTMLInputElement => root.querySelector("input") as HTMLInputElement;
  const options = (): string[] => [...root.querySelectorAll("[role=option]")].map((option) => option.querySelector("span")?.textContent ?? "");
  const active = (): string | null => {
    const id = input().getAttribute("aria-activedescendant");
    return id === null ? null : (document.getElementById(id)?.querySelector("span")?.textContent ?? "missing");
  };
  const type = async (text: string): Promise<void> => {
    await act(async () => {
      input().value = text;
      input().dispatchEvent(new InputEvent("input", { bubbles: true }));
      await vi.advanceTimersByTimeAsync(1000);
    });
  };
  const press = async (key: string): Promise<void> => {
    await act(async () => {
      input().dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
      await vi.advanceTimersByTimeAsync(1000);
    });
  };

  it("has the roles and states of the pattern", async () => {
    expect(input().getAttribute("role")).toBe("combobox");
    expect(input().getAttribute("aria-expanded")).toBe("false");
    await type("web");
    expect(input().getAttribute("aria-expanded")).toBe("true");
    expect(root.querySelector("[role=listbox]")?.id).toBe(input().getAttribute("aria-controls"));
  });

  it("asks once for several keys in a row", async () => {
    for (const text of ["w", "we", "web"]) {
      input().value = text;
      act(() => void input().dispatchEvent(new InputEvent("input", { bubbles: true })));
    }
    await act(async () => void (await vi.advanceTimersByTimeAsync(1000)));
    expect(asked).toEqual(["web"]);
    expect(options()).toEqual(["shop/web-0", "shop/web-1", "service/shop/web"]);
  });

  it("moves with arrow keys, around both ends, and chooses with Enter", async () => {
    await type("web");
    await press("ArrowDown");
    expect(active()).toBe("shop/web-0");
    await press("ArrowUp");
    expect(active()).toBe("service/shop/web");
    await press("ArrowDown");
    await press("ArrowDown");
    await press("Enter");
    expect(values.at(-1)).toBe("shop/web-1");
    expect(input().value).toBe("shop/web-1");
    expect(input().getAttribute("aria-expanded")).toBe("false");
  });

  it("opens with the down key and closes with Escape, which keeps the text", async () => {
    await type("web-1");
    await press("Escape");
    expect(input().getAttribute("aria-expanded")).toBe("false");
    expect(input().value).toBe("web-1");
    await press("ArrowDown");
    expect(input().getAttribute("aria-expanded")).toBe("true");
  });

  it("loses no key that comes before the effects of the one before have run", async () => {
    for (const key of "shop/web-0") {
      input().value += key;
      input().dispatchEvent(new InputEvent("input", { bubbles: true }));
      // Drawn, but no frame has passed.
      await Promise.resolve();
      await Promise.resolve();
    }
    await vi.advanceTimersByTimeAsync(1000);
    expect(input().value).toBe("shop/web-0");
  });

  it("shows a value that its owner sets", () => {
    act(() => set("shop/db-0"));
    expect(input().value).toBe("shop/db-0");
  });

  it("takes a text that is no choice, such as an address", async () => {
    await type("192.0.2.1");
    expect(values.at(-1)).toBe("192.0.2.1");
    expect(input().getAttribute("aria-expanded")).toBe("false");
  });
});
