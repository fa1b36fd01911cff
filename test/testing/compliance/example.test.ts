/**
 * Goal: somebody else's implementation is tested by a suite of the built package, with no runner but Node's
 * own. Method: the example in examples/compliance-node-test, beside a build of the package; then with a store
 * that breaks the contract, which has to fail.
 */
import { execFile } from 'node:child_process';
import { copyFileSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'tsup';
import { afterAll, beforeAll, expect, it } from 'vitest';

const repository = fileURLToPath(new URL('../../../', import.meta.url));
const example = join(repository, 'examples/compliance-node-test');
let directory: string;

// Within the repository, so that what is built finds its dependencies.
beforeAll(async () => {
  const cache = join(repository, '.cache');
  mkdirSync(cache, { recursive: true });
  directory = mkdtempSync(join(cache, 'example-'));
  copyFileSync(join(repository, 'package.json'), join(directory, 'package.json'));
  const entry = {
    index: join(repository, 'src/index.ts'),
    testing: join(repository, 'src/testing/index.ts'),
  };
  const quiet = { dts: false, sourcemap: false, clean: false, silent: true } as const;
  await build({ entry, outDir: join(directory, 'dist'), ...quiet });
  cpSync(example, join(directory, 'example'), { recursive: true });
});

afterAll(() => rmSync(directory, { recursive: true }));

/** Runs the example's tests as a user does. */
function runExample(): Promise<{ readonly code: number; readonly output: string }> {
  const args = ['--test', '--test-reporter=tap', 'key-value-register.test.js'];
  // A runner that runs in another one reports to that one instead.
  const { NODE_TEST_CONTEXT: _, ...env } = process.env;
  return new Promise((resolve) => {
    execFile(process.execPath, args, { cwd: join(directory, 'example'), env }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), output: stdout + stderr });
    });
  });
}

it('passes', async () => {
  const { code, output } = await runExample();
  expect(output).toMatch(/^# fail 0$/m);
  expect(Number(/^# pass (\d+)$/m.exec(output)?.[1])).toBeGreaterThanOrEqual(10);
  expect(code).toBe(0);
});

it('fails on a store that overwrites what is there, and says why', async () => {
  const store = join(directory, 'example/memory-store.js');
  const source = readFileSync(store, 'utf8');
  const broken = source.replace('if (!entries.has(key)) entries.set', 'entries.set');
  expect(broken).not.toBe(source);
  writeFileSync(store, broken);
  const { code, output } = await runExample();
  writeFileSync(store, source);
  expect(code).toBe(1);
  expect(output).toContain('not ok');
  expect(output).toContain('claiming owner: expected declined, got owner');
});
