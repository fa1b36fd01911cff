import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { build } from 'tsup';

const repository = fileURLToPath(new URL('../../', import.meta.url));

/**
 * Makes one JavaScript file each of what is written in TypeScript for the tests, for Node versions that
 * cannot read that. They still take themselves for the files that they were made from.
 *
 * @template {string} Name
 * @param {Record<Name, string>} files By name, from the repository's root.
 * @returns {Promise<{ paths: Record<Name, string>, remove: () => Promise<void> }>}
 */
export async function bundle(files) {
  const cache = join(repository, '.cache');
  await mkdir(cache, { recursive: true });
  const directory = await mkdtemp(join(cache, 'benchmark-'));
  const paths = /** @type {Record<Name, string>} */ ({});
  for (const name of /** @type {Name[]} */ (Object.keys(files))) {
    const file = join(repository, files[name]);
    await build({
      entry: { [name]: file },
      outDir: directory,
      define: { 'import.meta.url': JSON.stringify(pathToFileURL(file).href) },
      config: false,
      format: ['esm'],
      target: 'node20',
      skipNodeModulesBundle: true,
      clean: false,
      silent: true,
    });
    paths[name] = join(directory, `${name}.js`);
  }
  return { paths, remove: () => rm(directory, { recursive: true, force: true }) };
}
