// Turns a JavaScript app into a WebAssembly component: esbuild makes one module of it and its dependencies,
// componentize-js puts that module into an engine that already has it loaded.
//
//     node componentize.mjs ENTRY WIT_DIR WORLD OUT
//
// The app says `export default { async fetch(request, env) {…} }`, as on other clouds, or calls
// addEventListener("fetch", …) itself. It imports standard interfaces without their versions
// (`import { open } from "wasi:keyvalue/store"`): which version the cloud speaks is not the app's worry.
import { readFile, readdir, rename, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { componentize } from "@bytecodealliance/componentize-js";
import { build } from "esbuild";

const [entry, witPath, worldName, out] = process.argv.slice(2).map((arg, i) => (i === 2 ? arg : resolve(arg)));
if (!out) throw new Error("usage: node componentize.mjs ENTRY WIT_DIR WORLD OUT");

const world = await readFile(join(witPath, "world.wit"), "utf8");
const versions = await packageVersions(join(witPath, "deps"));

console.log("bundling");
const bundle = await build({
  stdin: { contents: glue(entry), resolveDir: dirname(entry), sourcefile: "firm-glue.js" },
  bundle: true,
  write: false,
  format: "esm",
  // The app runs in neither Node nor a browser; packages made for either only work as far as they are neutral.
  platform: "neutral",
  mainFields: ["module", "main"],
  conditions: ["worker", "import"],
  target: "es2022",
  charset: "utf8",
  legalComments: "none",
  logLevel: "warning",
  plugins: [{ name: "firm", setup }],
}).catch(() => process.exit(1)); // esbuild has told the reason, with file and line

console.log("componentizing");
const source = join(dirname(out), "bundle.js");
await writeFile(source, bundle.outputFiles[0].text);
const { component } = await componentize({ sourcePath: source, witPath, worldName });

// Renamed into place, so that an interrupted build never leaves half a component to be pushed.
await writeFile(`${out}.part`, component);
await rename(`${out}.part`, out);
console.log(`${(component.length / 1e6).toFixed(1)} MB`);

// `env` is what the manifest grants: with bound secrets the config store, which holds [env] too, else [env].
// It is read on the first request, not here: what is read here would be baked into the component.
function glue(entry) {
  const config = world.includes("wasi:config/store");
  return `
    import * as app from ${JSON.stringify(entry)};
    import { ${config ? "getAll as read } from 'wasi:config/store'" : "getEnvironment as read } from 'wasi:cli/environment'"};
    const handler = app.default?.fetch ? app.default : undefined;
    let env;
    if (handler) addEventListener("fetch", (event) => {
      env ??= Object.freeze(Object.fromEntries(read()));
      event.respondWith((async () => handler.fetch(event.request, env, event))());
    });`;
}

function setup(build) {
  build.onResolve({ filter: /^wasi:/ }, versioned);
  build.onResolve({ filter: /^node:/ }, ({ path }) => ({
    errors: [{ text: `${path} is part of Node, which isn't there in a component; use what browsers have too` }],
  }));
}

function versioned({ path }) {
  if (path.includes("@")) return { path, external: true };
  const version = versions.get(path.split("/")[0]);
  if (!version) return { errors: [{ text: `the cloud has no ${path}; it has ${[...versions.keys()].join(", ")}` }] };
  if (!world.includes(`${path}@`))
    return { errors: [{ text: `nothing grants ${path} to this app: bind it in firm.toml under [bindings]` }] };
  return { path: `${path}@${version}`, external: true };
}

async function packageVersions(folder) {
  const heads = (await readdir(folder)).map(async (file) => {
    const [, name, version] = (await readFile(join(folder, file), "utf8")).match(/^package (\S+?)@(\S+);/m);
    return [name, version];
  });
  return new Map(await Promise.all(heads));
}
