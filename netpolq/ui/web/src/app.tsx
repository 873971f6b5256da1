import type { JSX } from "preact";
import { useCallback, useEffect, useMemo, useState } from "preact/hooks";
import { formatHash, NO_FILTERS, PAGES, type Page } from "./address.ts";
import { ApiError, errorText, getJson, hasToken, listenForUnauthorized, setToken } from "./api.ts";
import { ExplainPage } from "./explain/page.tsx";
import { FlowsPage } from "./flows/page.tsx";
import { type Live, LiveContext } from "./live.ts";
import { Login } from "./login.tsx";
import { MapPage } from "./map/page.tsx";
import { NavigationContext, useNavigation } from "./navigation.ts";
import { NodesPage } from "./nodes/page.tsx";
import { PoliciesPage } from "./policies/page.tsx";
import { StatusLine } from "./status-line.tsx";
import type { Session } from "./types.ts";
import { WhatIfPage } from "./what-if/page.tsx";

const TITLES: Record<Page, string> = {
  map: "Map",
  flows: "Flows",
  policies: "Policies",
  explain: "Explain",
  "what-if": "What-if",
  nodes: "Nodes",
};

const CONTENT: Record<Page, () => JSX.Element> = {
  map: MapPage,
  flows: FlowsPage,
  policies: PoliciesPage,
  explain: ExplainPage,
  "what-if": WhatIfPage,
  nodes: NodesPage,
};

/** Pages whose filters go along from one to the other. */
const FILTERED: readonly Page[] = ["map", "flows"];

const RETRY_MS = 3_000;

/** The whole page: navigation, the line with the state of the data, and the page of the address. */
export function App(): JSX.Element {
  const navigation = useNavigation();
  const { page, filters } = navigation.route;
  const [session, setSession] = useState<Session | null>(null);
  const [problem, setProblem] = useState("");
  const [refusal, setRefusal] = useState<string | null>(null);
  const [attempt, setAttempt] = useState(0);
  const [live, setLive] = useState<Live | null>(null);
  const report = useCallback((next: Live) => setLive(next), []);
  const context = useMemo(() => ({ report }), [report]);

  useEffect(() => listenForUnauthorized((message) => setRefusal(hasToken() ? message : "")), []);
  useEffect(() => {
    const asking = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    getJson<Session>("/api/session", new URLSearchParams(), asking.signal).then(
      (answer) => {
        setSession(answer);
        setProblem("");
        setRefusal(null);
      },
      (error: unknown) => {
        if (asking.signal.aborted) return;
        setProblem(errorText(error));
        const status = error instanceof ApiError ? error.status : 0;
        // A good token of a user without the right: another one may have it.
        if (status === 403 && hasToken()) setRefusal(errorText(error));
        // Attempts with a refused token would only use up the ones that the server allows.
        if (status === 401 || status === 403) return;
        timer = setTimeout(() => setAttempt((number) => number + 1), RETRY_MS);
      },
    );
    return () => {
      asking.abort();
      clearTimeout(timer);
    };
  }, [attempt]);
  useEffect(() => {
    document.title = `${TITLES[page]} · netpolq`;
  }, [page]);

  if (refusal !== null) {
    return (
      <Login
        problem={refusal}
        onToken={(value) => {
          setToken(value);
          setRefusal(null);
          setSession(null);
          setAttempt((number) => number + 1);
        }}
      />
    );
  }
  const Content = CONTENT[page];
  return (
    <NavigationContext.Provider value={navigation}>
      <a class="skip" href="#content" onClick={(event) => {
        event.preventDefault();
        document.getElementById("content")?.focus();
      }}>Skip to content</a>
      <header class="top">
        <span class="brand">netpolq</span>
        <nav aria-label="Pages">
          {PAGES.map((name) => (
            <a
              key={name}
              href={FILTERED.includes(name) ? formatHash(name, FILTERED.includes(page) ? filters : NO_FILTERS) : formatHash(name)}
              aria-current={name === page ? "page" : undefined}
            >
              {TITLES[name]}
            </a>
          ))}
        </nav>
        {session !== null && session.source !== "demo" && <span class="where" title={`netpolq ${session.version}`}>{session.user === null ? session.where : `${session.user} · ${session.where}`}</span>}
        {session !== null && session.authentication !== "none" && (
          <button
            type="button"
            class="quiet"
            onClick={() => {
              setToken(null);
              setSession(null);
              setRefusal("");
            }}
          >
            Log out
          </button>
        )}
      </header>
      <StatusLine session={session} problem={problem} live={live} />
      <main id="content" class={`page page-${page}`} tabIndex={-1}>
        <h1 class="visually-hidden">{TITLES[page]}</h1>
        {session !== null && (
          <LiveContext.Provider value={context}>
            <Content key={page} />
          </LiveContext.Provider>
        )}
      </main>
    </NavigationContext.Provider>
  );
}
