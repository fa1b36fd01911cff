/**
 * Goal: the pages say what is. Method: every link leads somewhere; every piece of TypeScript stands in an
 * example, which is compiled and run; the help that is quoted is what the program prints.
 */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { program } from '../cli/support/context.ts';

const repository = fileURLToPath(new URL('../../', import.meta.url));
const read = (path: string) => readFileSync(join(repository, path), 'utf8');
const markdown = (folder: string) =>
  readdirSync(join(repository, folder))
    .filter((name) => name.endsWith('.md'))
    .map((name) => join(folder, name));

const pages = [...markdown('.'), ...markdown('docs'), ...markdown('examples')];

/** The fenced blocks of a page in one language ('' for none). */
function blocks(page: string, language: string): readonly string[] {
  const fences = read(page).matchAll(/^```(\w*)\n([\s\S]*?)^```$/gm);
  return [...fences].filter(([, found]) => found === language).map(([, , body = '']) => body);
}

/** As GitHub makes an anchor of a heading. */
function slug(heading: string): string {
  return heading
    .toLowerCase()
    .replaceAll(/[^\w\- ]/g, '')
    .replaceAll(' ', '-');
}

test.each(pages)('the links of %s lead somewhere', (page) => {
  const text = read(page).replaceAll(/^```[\s\S]*?^```$/gm, '');
  for (const [, target = ''] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
    if (/^https?:/.test(target)) continue;
    const [file = '', anchor] = target.split('#');
    const path = file === '' ? page : join(dirname(page), file);
    expect(existsSync(resolve(repository, path)), `${target} in ${page}`).toBe(true);
    if (anchor === undefined) continue;
    const headings = [...read(path).matchAll(/^#+ (.+)$/gm)].map(([, heading = '']) => slug(heading));
    expect(headings, `${target} in ${page}`).toContain(anchor);
  }
});

test.each(pages)('the TypeScript of %s stands in an example', (page) => {
  const flat = (code: string) => code.replaceAll(/^\s+/gm, '');
  const examples = readdirSync(join(repository, 'examples'))
    .filter((name) => name.endsWith('.ts'))
    .map((name) => flat(read(`examples/${name}`)));
  for (const block of blocks(page, 'ts')) {
    expect(
      examples.some((example) => example.includes(flat(block))),
      block,
    ).toBe(true);
  }
});

test('the README shows all of examples/embed.ts', () => {
  expect(blocks('README.md', 'ts')).toContain(read('examples/embed.ts'));
});

test.each(['receive', 'send', 'recover', 'ticket', 'demo'])(
  'the help of %s is as docs/command-line.md quotes it',
  async (command) => {
    const { stdout } = await program([command, '--help']);
    expect(blocks('docs/command-line.md', '')).toContain(stdout);
  },
);
