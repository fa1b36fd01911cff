/**
 * Goal: whoever meets a code finds it explained, and what is explained exists. Method: the page's headings
 * against the list of codes, and that list against the code that raises them.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { errorCodes } from '../../src/index.ts';

const page = readFileSync(new URL('../../docs/errors.md', import.meta.url), 'utf8');

/** Each heading of the third level, and what is below it. */
const sections = page
  .split(/^(?=#{2,3} )/m)
  .filter((part) => part.startsWith('### '))
  .map((part) => {
    const [heading = '', ...body] = part.split('\n');
    return { heading, body: body.join('\n') };
  });

test('each code has one section, and each section names a code', () => {
  const named = sections.map(({ heading }) => heading).sort();
  expect(named).toEqual(errorCodes.map((code) => `### \`${code}\``).sort());
});

test.each(sections)('$heading says when it comes, what holds then, and what to do', ({ body }) => {
  const paragraphs = body.trim().split(/\n\n+/);
  expect(paragraphs.map((paragraph) => /^\*\*(.*?)\.\*\* \S/.exec(paragraph)?.[1])).toEqual([
    'When',
    'Holds',
    'Do',
  ]);
});

test('each code is raised somewhere', () => {
  const src = new URL('../../src/', import.meta.url);
  const sources = readdirSync(src, { recursive: true, encoding: 'utf8' })
    .filter((path) => path.endsWith('.ts') && path !== 'errors.ts')
    .map((path) => readFileSync(new URL(path, src), 'utf8'))
    .join('\n');
  const raised = new Set(
    [...sources.matchAll(/\b(?:new MigrationError\(\s*|asMigrationError\([^)]*, )'([a-z-]+)'/g)].map(
      ([, code]) => code,
    ),
  );
  expect(errorCodes.filter((code) => !raised.has(code))).toEqual([]);
});
