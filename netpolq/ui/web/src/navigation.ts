import { createContext } from "preact";
import { useContext, useEffect, useState } from "preact/hooks";
import { type Filters, formatHash, type Page, parseHash, type Route } from "./address.ts";

/** The route of the address, and ways to another one. */
export interface Navigation {
  route: Route;
  /** Change filters of this page. The address is replaced, so that the back button leaves the page. */
  setFilters(change: Partial<Filters>): void;
  /** Change what is selected or asked on this page; an empty text removes a value. */
  setExtra(change: Record<string, string>): void;
}

export const NavigationContext = createContext<Navigation | null>(null);

/** Follow the address of the page. */
export function useNavigation(): Navigation {
  const [route, setRoute] = useState(() => parseHash(location.hash));
  useEffect(() => {
    const update = (): void => setRoute(parseHash(location.hash));
    addEventListener("hashchange", update);
    return () => removeEventListener("hashchange", update);
  }, []);
  const replace = (page: Page, filters: Filters, extra: Record<string, string>): void => {
    const hash = formatHash(page, filters, extra);
    history.replaceState(null, "", hash);
    setRoute(parseHash(hash));
  };
  return {
    route,
    // The address and not `route` is changed: two changes may come before the next drawing.
    setFilters(change) {
      const { page, filters, extra } = parseHash(location.hash);
      replace(page, { ...filters, ...change }, extra);
    },
    setExtra(change) {
      const { page, filters, extra } = parseHash(location.hash);
      replace(page, filters, { ...extra, ...change });
    },
  };
}

/** The navigation that the page has been given. */
export function useRoute(): Navigation {
  const navigation = useContext(NavigationContext);
  if (navigation === null) throw new Error("a page is shown outside of NavigationContext");
  return navigation;
}
