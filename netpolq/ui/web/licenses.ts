import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Plugin } from "vite";

/** Plugin that writes `licenses.txt`: name, version and licence text of each package whose code is in the bundle. */
export function licenses(): Plugin {
  return {
    name: "licenses",
    generateBundle(_options, bundle) {
      const folders = new Set<string>();
      for (const chunk of Object.values(bundle)) {
        const modules = chunk.type === "chunk" ? Object.keys(chunk.modules) : [];
        for (const id of modules) {
          const folder = packageFolder(id.replace(/^\0/, "").replace(/\?.*$/, ""));
          if (folder !== null) folders.add(folder);
        }
      }
      const texts = [...folders].map(licenseText).sort();
      this.emitFile({ type: "asset", fileName: "licenses.txt", source: texts.join(`\n${"-".repeat(80)}\n\n`) });
    },
  };
}

/** The folder of the package that a file belongs to; null for a file of the page itself. */
function packageFolder(file: string): string | null {
  return /^.*\/node_modules\/(?:@[^/]+\/)?[^/]+/.exec(file)?.[0] ?? null;
}

function licenseText(folder: string): string {
  const description = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const file = readdirSync(folder).find((name) => /^licen[cs]e/i.test(name));
  if (file === undefined) throw new Error(`${description.name}: the package has no licence file; add its text before it is bundled`);
  return `${description.name} ${description.version} (${description.license})\n\n${readFileSync(join(folder, file), "utf8").trim()}\n`;
}
