// Builds what the Python package ships: widgets/static/chat.js, a module for anywidget, and chat.css.
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = (/** @type {string} */ path) => fileURLToPath(new URL(path, import.meta.url));
const out = here("../jupyter_agentstore/widgets/static");

// marked says whose it is in a file of its own, which whoever has the bundle would not have.
const licence = await readFile(here("node_modules/marked/LICENSE"), "utf8");

await build({
  entryPoints: [
    { in: here("src/widget.ts"), out: "chat" },
    { in: here("src/chat.css"), out: "chat" },
  ],
  outdir: out,
  bundle: true,
  minify: true,
  format: "esm",
  platform: "browser",
  target: ["es2022"],
  charset: "utf8",
  legalComments: "eof",
  footer: { js: `/*! marked\n\n${licence.replaceAll("*/", "* /")}*/` },
  logLevel: "info",
});
