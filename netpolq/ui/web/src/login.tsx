import type { JSX } from "preact";
import { useState } from "preact/hooks";

/** What a header can hold. */
const SENDABLE = /^[!-~]+$/;

/** The form for a token. `problem`: the sentence of the server about the last token, or empty. */
export function Login({ problem, onToken }: { problem: string; onToken: (token: string) => void }): JSX.Element {
  const [token, setToken] = useState("");
  const [mistake, setMistake] = useState("");
  const shown = mistake || problem;
  return (
    <main class="login">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          const given = token.trim();
          if (SENDABLE.test(given)) onToken(given);
          else setMistake("A token has printable ASCII characters without spaces: copy it again.");
        }}
      >
        <h1>netpolq</h1>
        <p>This page needs a token. It stays in this tab of the browser, until the tab is closed.</p>
        <label class="field">
          <span class="field-label">Token</span>
          <input type="password" autoComplete="off" value={token} onInput={(event) => setToken(event.currentTarget.value)} />
        </label>
        {shown !== "" && <p class="problem" role="alert">{shown}</p>}
        <button type="submit" class="primary">Show the page</button>
      </form>
    </main>
  );
}
