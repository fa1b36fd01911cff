/**
 * Goal: the engine has no source of time, chance or I/O but what is handed to it, or a simulator would not be the
 * whole truth. Method: the source of everything from the interfaces to the core is read, comments apart. The lint
 * rules say the same; this holds also where somebody silenced them.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('../../src', import.meta.url));
const layers = ['interfaces', 'wire', 'channel', 'core'];

const forbidden: readonly (readonly [string, RegExp])[] = [
  ['a module of Node', /from 'node:|require\(|import\(/],
  ['a timer', /\b(?:setTimeout|setInterval|setImmediate|queueMicrotask|nextTick)\b/],
  ['a clock', /\bDate\b|\bperformance\s*\.|hrtime/],
  ['chance', /Math\.random|randomUUID|getRandomValues/],
  ['a timer of the signal\u2019s own', /AbortSignal\.timeout/],
  ['a timed queue', /new PQueue\([^)]*\b(?:interval|timeout)\b/],
];

const files = layers.flatMap((layer) =>
  readdirSync(join(root, layer), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts'))
    .map((name) => join(layer, name)),
);

function code(file: string): string {
  return readFileSync(join(root, file), 'utf8').replace(/\/\*[\s\S]*?\*\/|\/\/.*$/gm, '');
}

describe('the engine', () => {
  it('is there', () => expect(files.length).toBeGreaterThan(40));

  it.each(forbidden)('has not %s', (_, pattern) => {
    expect(files.filter((file) => pattern.test(code(file)))).toEqual([]);
  });

  it('would be found out', () => {
    for (const line of ["import { x } from 'node:fs'", 'setTimeout(f)', 'Date.now()', 'Math.random()']) {
      expect(forbidden.some(([, pattern]) => pattern.test(line))).toBe(true);
    }
  });
});
