/** Requests to the server. The token is in memory and in the storage of this tab only; it is sent as a header, never in an address. */

const TOKEN = "netpolq.token";

let token: string | null = readToken();
let onUnauthorized: (message: string) => void = () => {};

/** An answer that is no success. `message` is the sentence of the server. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** Keep a token for this tab; null forgets it. */
export function setToken(value: string | null): void {
  token = value;
  try {
    if (value === null) sessionStorage.removeItem(TOKEN);
    else sessionStorage.setItem(TOKEN, value);
  } catch {
    // Without storage the token lasts until the page is loaded again.
  }
}

/** Whether this tab has a token. */
export function hasToken(): boolean {
  return token !== null;
}

/** Call `listener` with the sentence of the server whenever a request needs a token, or another one. */
export function listenForUnauthorized(listener: (message: string) => void): void {
  onUnauthorized = listener;
}

/** Ask the server. Raises `ApiError` for an answer that is no success, and for a server that does not answer (status 0). */
export async function request(path: string, options: RequestInit = {}): Promise<Response> {
  const headers = new Headers(options.headers);
  if (token !== null) headers.set("Authorization", `Bearer ${token}`);
  let response: Response;
  try {
    response = await fetch(path, { cache: "no-store", credentials: "same-origin", ...options, headers });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(0, "netpolq ui does not answer. Check that it still runs.");
  }
  if (response.ok) return response;
  const message = await errorOf(response);
  if (response.status === 401) onUnauthorized(message);
  throw new ApiError(response.status, message);
}

/** Ask for JSON. */
export async function getJson<Shape>(path: string, query: URLSearchParams, signal?: AbortSignal): Promise<Shape> {
  const response = await request(withQuery(path, query), signal ? { signal } : {});
  return (await response.json()) as Shape;
}

/** Save an answer as a file. A link cannot do it, because it cannot send the token. */
export async function download(path: string, query: URLSearchParams, name: string): Promise<void> {
  const response = await request(withQuery(path, query));
  const url = URL.createObjectURL(await response.blob());
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  URL.revokeObjectURL(url);
}

/** A path with a query, without `?` if the query is empty. */
export function withQuery(path: string, query: URLSearchParams): string {
  const text = query.toString();
  return text === "" ? path : `${path}?${text}`;
}

/** The sentence for people of something that was thrown. */
export function errorText(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

async function errorOf(response: Response): Promise<string> {
  try {
    const body: unknown = await response.json();
    if (typeof body === "object" && body !== null && "error" in body && typeof body.error === "string") return body.error;
  } catch {
    // Something in front of the server has answered.
  }
  return `The server answered with status ${response.status}. Look at the log of netpolq ui.`;
}

function readToken(): string | null {
  try {
    return sessionStorage.getItem(TOKEN);
  } catch {
    return null;
  }
}
