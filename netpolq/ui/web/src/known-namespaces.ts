import { useEffect, useState } from "preact/hooks";

const known = new Set<string>();

/** All namespaces that any page has shown: with a filter the present document has only some of them. */
export function useKnownNamespaces(shown: readonly string[]): readonly string[] {
  const [names, setNames] = useState<readonly string[]>([...known]);
  useEffect(() => {
    const before = known.size;
    for (const name of shown) known.add(name);
    if (known.size !== before) setNames([...known].sort());
  }, [shown]);
  return names;
}
