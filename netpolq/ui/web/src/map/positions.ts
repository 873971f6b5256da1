/** Positions of workloads, by their id. They are kept after a workload goes, so that it comes back to its place, and for this tab. */

export interface Position {
  x: number;
  y: number;
}

const KEY = "netpolq.positions";
/** The map shows 400 workloads at once; several sets of filters fit. */
const MAX_KEPT = 2_000;

export class Positions {
  private readonly known = new Map<string, Position>();

  constructor(private readonly storage: Pick<Storage, "getItem" | "setItem"> | null) {
    for (const [id, position] of read(storage)) this.known.set(id, position);
  }

  get(id: string): Position | undefined {
    return this.known.get(id);
  }

  /** Keep positions, those that were kept the longest ago go first. */
  put(positions: Iterable<[string, Position]>): void {
    for (const [id, { x, y }] of positions) {
      this.known.delete(id);
      this.known.set(id, { x, y });
    }
    for (const id of this.known.keys()) {
      if (this.known.size <= MAX_KEPT) break;
      this.known.delete(id);
    }
    const entries = [...this.known].map(([id, { x, y }]) => [id, Math.round(x), Math.round(y)]);
    try {
      this.storage?.setItem(KEY, JSON.stringify(entries));
    } catch {
      // A full storage costs the positions at the next load of the page, nothing else.
    }
  }

  forget(): void {
    this.known.clear();
  }
}

/** The storage of this tab; null if the browser forbids it. */
export function tabStorage(): Storage | null {
  try {
    return sessionStorage;
  } catch {
    return null;
  }
}

function read(storage: Pick<Storage, "getItem"> | null): [string, Position][] {
  try {
    const entries: unknown = JSON.parse(storage?.getItem(KEY) ?? "[]");
    if (!Array.isArray(entries)) return [];
    return entries.flatMap((entry: unknown): [string, Position][] => {
      if (!Array.isArray(entry)) return [];
      const [id, x, y] = entry as unknown[];
      return typeof id === "string" && typeof x === "number" && typeof y === "number" ? [[id, { x, y }]] : [];
    });
  } catch {
    return [];
  }
}
