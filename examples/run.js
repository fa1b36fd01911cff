/**
 * Runs an example: `npm run example NAME`, or, against what was built before, `node examples/run.js NAME
 * [ARGUMENTS]`. Node 20 cannot run TypeScript by itself, so the example is bundled first; the library stays
 * outside, as a package that it imports.
 */
import { readdirSync } from 'node:fs';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'tsup';

const folder = fileURLToPath(new URL('.', import.meta.url));
// Those that others import are no programs.
const names = readdirSync(folder)
  .filter((name) => name.endsWith('.ts') && !name.startsWith('toy-'))
  .map((name) => name.slice(0, -'.ts'.length));

const [name, ...args] = process.argv.slice(2);
if (!names.includes(name)) {
  console.error(`Usage: npm run example NAME [-- ARGUMENTS]\n\nNames: ${names.join(', ')}`);
  process.exit(64);
}

const outDir = fileURLToPath(new URL('../.cache/examples/', import.meta.url));
await build({
  config: false,
  entry: [`${folder}${name}.ts`],
  outDir,
  format: 'esm',
  target: 'node20',
  external: [/^longhaul/],
  silent: true,
});
const script = `${outDir}${name}.js`;
process.argv = [process.argv[0], script, ...args];
await import(pathToFileURL(script).href);
