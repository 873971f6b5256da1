import { defineConfig } from "vitest/config";
import { licenses } from "./licenses.ts";

// The address of a running `netpolq ui` for `npm run dev`.
const server = process.env.NETPOLQ_UI ?? "http://127.0.0.1:8080";

export default defineConfig({
  plugins: [licenses()],
  build: {
    outDir: "../static",
    emptyOutDir: true,
    sourcemap: false,
    target: "es2022",
    // An asset as a data: URL would need `font-src data:` in the content security policy.
    assetsInlineLimit: 0,
    // cytoscape and its layout are one large chunk that only the map loads.
    chunkSizeWarningLimit: 700,
  },
  server: { proxy: { "/api": { target: server, changeOrigin: true } } },
  test: { environment: "happy-dom", include: ["tests/**/*.test.{ts,tsx}"] },
});
