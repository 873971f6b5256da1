import type { JSX } from "preact";
import { useState } from "preact/hooks";

/** The form for a token. `problem`: the sentence of the server about the last token, or empty. */
export function Login({ problem, onToken }: { problem: string; onToken: (token: string) => void }): JSX.Element {
  const [token, setToken] = useState("");
  return (
    <main class="login">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (token.trim() !== "") onToken(token.trim());
        }}
      >
        <h1>netpolq</h1>
        <p>This page needs a token. It stays in this tab of the browser, until the tab is closed.</p>
        <label class="field">
          <span class="field-label">Token</span>
          <input type="password" autoComplete="off" value={token} onInput={(event) => setToken(event.currentTarget.value)} />
        </label>
        {problem !== "" && <p class="problem" role="alert">{problem}</p>}
        <button type="submit" class="primary">Show the page</button>
      </form>
    </main>
  );
}
