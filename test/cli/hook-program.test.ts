/**
 * Goal: a program of the operator's is run as it is, knows which VM it is for, is heard, and ends when its time
 * is over. Method: small shell scripts, run as hooks.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { hookProgram } from '../../src/cli/hook-program.ts';
import { UsageError } from '../../src/cli/usage-error.ts';

const directory = mkdtempSync(join(tmpdir(), 'longhaul-hooks-'));
afterAll(() => rmSync(directory, { recursive: true }));

function script(name: string, text: string): string {
  const path = join(directory, name);
  writeFileSync(path, `#!/bin/sh\n${text}\n`, { mode: 0o755 });
  return path;
}

async function run(program: string, vmId = 'web 1', time = new AbortController()) {
  const lines: string[] = [];
  let saidSomething = () => {};
  const said = new Promise<void>((resolve) => {
    saidSomething = resolve;
  });
  const hook = hookProgram('--before-start', program, { PATH: process.env.PATH, OWN: 'kept' }, (line) => {
    lines.push(line);
    saidSomething();
  });
  const over = (async () => hook({ vmId, epoch: 7, signal: time.signal }))();
  over.catch(() => {});
  return { lines, said, over, time };
}

describe('a program', () => {
  test('is told in its environment which VM it is for, has no arguments and no input, and is heard', async () => {
    const path = script('says', 'echo "$LONGHAUL_VM_ID, $LONGHAUL_EPOCH, $OWN, $#"; cat; echo oops >&2');
    const { lines, over } = await run(path);
    await over;
    expect([...lines].sort()).toEqual(['--before-start: oops', '--before-start: web 1, 7, kept, 0']);
  });

  test('cannot steer a terminal by what it prints', async () => {
    const { lines, over } = await run(script('steers', "printf '\\033[2Jhello'"));
    await over;
    expect(lines).toEqual(['--before-start: ?[2Jhello']);
  });

  test.each([
    ['ends with another code than 0', 'exit 3', / ended with code 3$/],
    ['dies', 'kill -TERM $$', / ended with SIGTERM$/],
  ])('that %s has failed', async (name, text, message) => {
    await expect((await run(script(name.replaceAll(' ', '-'), text))).over).rejects.toThrow(message);
  });

  test('that is found on the PATH needs no slash, and one that is not there fails', async () => {
    await expect((await run('true')).over).resolves.toBeUndefined();
    await expect((await run('longhaul-no-such-program')).over).rejects.toThrow('ENOENT');
  });

  test('cannot be run for a VM whose name no environment can hold', async () => {
    await expect((await run('true', 'a\0b')).over).rejects.toThrow();
  });

  test('is killed when its time is over, with what it has started', async () => {
    const path = script('hangs', 'sleep 1000 & echo $!; wait');
    const { lines, said, over, time } = await run(path);
    await said;
    time.abort();
    await expect(over).rejects.toThrow('ended with SIGKILL');
    const pid = Number(/\d+$/.exec(lines[0] ?? '')?.[0]);
    expect(pid).toBeGreaterThan(1);
    await expect.poll(() => isThere(pid)).toBe(false);
  });

  test('may leave something running that has its output open', async () => {
    const { lines, over } = await run(script('leaves', 'sleep 1000 & echo $!'));
    await over;
    const pid = Number(/\d+$/.exec(lines[0] ?? '')?.[0]);
    expect(isThere(pid)).toBe(true);
    process.kill(pid, 'SIGKILL');
  });
});

/** One that has ended and that nobody has asked for yet is not there. */
function isThere(pid: number): boolean {
  try {
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

test.each(['none', 'not-executable'])('a path where no program is (%s) is wrong usage', (name) => {
  const path = join(directory, name);
  if (name !== 'none') writeFileSync(path, 'text', { mode: 0o644 });
  const make = () => hookProgram('--after-start', path, {}, () => {});
  expect(make).toThrow(UsageError);
  expect(make).toThrow('--after-start: ');
});
