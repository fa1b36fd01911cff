/**
 * Goal: in a file register a claim is made once, and everybody learns the same value, also several processes at the
 * same moment; it is kept through the death of its process, and no record is believed that is not whole. What every
 * register owes is tested in test/testing/compliance.
 *
 * Method: every truncation and every flipped byte of a record; real
 * processes, which run the register as it is built, racing for the same claims and killed in the middle.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { build } from 'tsup';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { ClaimValue } from '../../src/interfaces/register.ts';
import { fileRegister } from '../../src/registers/index.ts';

let base: string;

beforeEach(() => {
  base = mkdtempSync(join(tmpdir(), 'register-'));
});

afterEach(() => {
  rmSync(base, { recursive: true });
});

it('takes any string as the id of a VM, and makes no file outside its directory', async () => {
  const register = fileRegister(join(base, 'register'));
  const ids = fc.uniqueArray(fc.string({ minLength: 1, maxLength: 255, unit: 'binary' }), { maxLength: 8 });
  let epoch = 0;
  await fc.assert(
    fc.asyncProperty(ids, async (generated) => {
      epoch += 1;
      const all = [...new Set(['..', '../../etc', ...generated.map((id) => id.slice(0, 255))])];
      await Promise.all(
        all.map((id, i) => register.claim(id, epoch, 'destination', i % 2 ? 'owner' : 'declined')),
      );
      for (const [i, id] of all.entries()) {
        const claims = await register.read(id);
        expect(claims).toContainEqual({ epoch, role: 'destination', value: i % 2 ? 'owner' : 'declined' });
      }
    }),
    { numRuns: 15 },
  );
  expect(readdirSync(base)).toEqual(['register']);
});

it('makes no file for what is no claim', async () => {
  const register = fileRegister(join(base, 'register'));
  for (const [vmId, epoch, role, value] of [
    ['', 1, 'source', 'given'],
    ['vm', 0, 'source', 'given'],
    ['vm', 1, 'source', 'owner'],
  ] as const) {
    await expect(register.claim(vmId, epoch, role, value)).rejects.toMatchObject({
      code: 'invalid-argument',
    });
  }
  expect(readdirSync(base)).toEqual([]);
});

describe('the files of a fileRegister', () => {
  /** The file of the one claim that was made. */
  async function recordOf(vmId: string): Promise<{ readonly path: string; readonly bytes: Buffer }> {
    await fileRegister(base).claim(vmId, 3, 'destination', 'owner');
    const path = join(base, readdirSync(base)[0] ?? '', '3.destination');
    return { path, bytes: readFileSync(path) };
  }

  it('are for the owner alone, readable by people, in directories created on the way', async () => {
    const directory = join(base, 'lib', 'longhaul');
    await fileRegister(directory).claim('web 1', 3, 'destination', 'owner');
    const [name = ''] = readdirSync(directory);
    const record = join(directory, name, '3.destination');
    expect(name).toMatch(/^web_1-[0-9a-f]{64}$/);
    expect(readdirSync(join(directory, name))).toEqual(['3.destination']);
    for (const path of [join(base, 'lib'), directory, join(directory, name)]) {
      expect(statSync(path).mode & 0o777).toBe(0o700);
    }
    expect(statSync(record).mode & 0o777).toBe(0o600);
    expect(readFileSync(record, 'utf8')).toMatch(
      /^{"format":"longhaul-claim-1","vmId":"web 1","epoch":3,"role":"destination","value":"owner"}\n[0-9a-f]{8}\n$/,
    );
  });

  it('are not believed when cut short or changed anywhere', async () => {
    const { path, bytes } = await recordOf('vm');
    const damaged: Uint8Array[] = [Buffer.concat([bytes, Buffer.from(' ')])];
    for (let at = 0; at < bytes.length; at += 1) {
      damaged.push(bytes.subarray(0, at));
      const flipped = Buffer.from(bytes);
      flipped[at] = (flipped[at] ?? 0) ^ 1;
      damaged.push(flipped);
    }
    const expected = { code: 'register', message: expect.stringContaining(path) };
    for (const [index, content] of damaged.entries()) {
      writeFileSync(path, content);
      await expect(fileRegister(base).read('vm')).rejects.toMatchObject(expected);
      if (index % 16 > 0) continue;
      await expect(fileRegister(base).claim('vm', 3, 'destination', 'declined')).rejects.toMatchObject(
        expected,
      );
    }
    writeFileSync(path, bytes);
    expect(await fileRegister(base).claim('vm', 3, 'destination', 'declined')).toBe('owner');
  });

  it('are not believed under the name of another claim or another VM', async () => {
    const { path, bytes } = await recordOf('vm');
    await fileRegister(base).claim('other', 1, 'source', 'given');
    const others = join(base, readdirSync(base).find((name) => name.startsWith('other')) ?? '');
    for (const wrong of [path.replace('3.', '4.'), join(others, '3.destination')]) {
      writeFileSync(wrong, bytes);
      const vmId = wrong.startsWith(others) ? 'other' : 'vm';
      const named = { code: 'register', message: expect.stringContaining(wrong) };
      await expect(fileRegister(base).read(vmId)).rejects.toMatchObject(named);
      rmSync(wrong);
    }
  });

  it.each(['3.destination.bak', '03.source', '3.owner', 'README', '9007199254740993.source'])(
    'are all known: %s is not',
    async (name) => {
      const { path } = await recordOf('vm');
      const stranger = join(path, '..', name);
      writeFileSync(stranger, 'x');
      const named = { code: 'register', message: expect.stringContaining(stranger) };
      await expect(fileRegister(base).read('vm')).rejects.toMatchObject(named);
    },
  );

  it('do not mind what dead processes left, and the next claim removes it', async () => {
    const { path, bytes } = await recordOf('vm');
    const leftovers = ['3.destination', '4.source'].flatMap((name) => [
      [`${name}.6a1f0d0e-0000-4000-8000-000000000000.tmp`, bytes.subarray(0, 9)] as const,
      [`${name}.6a1f0d0e-0000-4000-8000-000000000001.tmp`, bytes] as const,
    ]);
    for (const [name, content] of leftovers) writeFileSync(join(path, '..', name), content);
    expect(await fileRegister(base).read('vm')).toHaveLength(1);
    await fileRegister(base).claim('vm', 5, 'source', 'given');
    expect(readdirSync(join(path, '..')).sort()).toEqual(['3.destination', '5.source']);
  });

  it('say where, when the file system fails', async () => {
    const file = join(base, 'file');
    writeFileSync(file, '');
    const named = { code: 'register', message: expect.stringContaining(file) };
    await expect(fileRegister(file).claim('vm', 1, 'source', 'given')).rejects.toMatchObject(named);
    await expect(fileRegister(file).read('vm')).rejects.toMatchObject(named);
  });

  it.each(['', 'a\0b', undefined])('are in a directory: %j is none', (directory) => {
    expect(() => fileRegister(directory as string)).toThrow(
      expect.objectContaining({ code: 'invalid-argument' }),
    );
  });
});

describe('several processes and one directory', () => {
  const children: ChildProcess[] = [];
  let built: string;

  // Within the repository, so that what is built finds its dependencies.
  beforeAll(async () => {
    const cache = new URL('../../.cache/', import.meta.url).pathname;
    mkdirSync(cache, { recursive: true });
    built = mkdtempSync(join(cache, 'registers-'));
    const entry = { register: 'src/registers/index.ts' };
    const quiet = { config: false, silent: true, dts: false, clean: false } as const;
    await build({ entry, outDir: built, format: 'esm', outExtension: () => ({ js: '.mjs' }), ...quiet });
    writeFileSync(
      join(built, 'claimer.mjs'),
      `import { fileRegister } from './register.mjs';
       process.on('message', async ({ directory, epochs, value }) => {
         const register = fileRegister(directory);
         for (let epoch = 1; epoch <= epochs; epoch += 1) {
           process.send(await register.claim('vm', epoch, 'destination', value));
         }
       });
       process.send('ready');`,
    );
  });

  afterEach(() => {
    for (const child of children.splice(0)) child.kill('SIGKILL');
  });

  afterAll(() => {
    rmSync(built, { recursive: true });
  });

  async function claimer(): Promise<ChildProcess> {
    const child = fork(join(built, 'claimer.mjs'), { stdio: 'inherit' });
    children.push(child);
    await once(child, 'message');
    return child;
  }

  /** The first `count` answers of a process. */
  function answers(child: ChildProcess, count: number): Promise<ClaimValue[]> {
    return new Promise((resolve) => {
      const received: ClaimValue[] = [];
      child.on('message', (value: ClaimValue) => {
        received.push(value);
        if (received.length === count) resolve(received);
      });
    });
  }

  it('all learn the same value of each claim', async () => {
    const epochs = 60;
    const processes = await Promise.all([claimer(), claimer(), claimer(), claimer()]);
    const all = processes.map((child) => answers(child, epochs));
    processes.forEach((child, i) => {
      child.send({ directory: base, epochs, value: i % 2 === 0 ? 'owner' : 'declined' });
    });
    const [first = [], ...others] = await Promise.all(all);
    for (const other of others) expect(other).toEqual(first);
    const claims = [...(await fileRegister(base).read('vm'))].sort((a, b) => a.epoch - b.epoch);
    expect(claims).toEqual(first.map((value, i) => ({ epoch: i + 1, role: 'destination', value })));
    expect(filesIn(base).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  });

  it('lose nothing that was claimed when they are killed', async () => {
    const processes = await Promise.all([claimer(), claimer()]);
    const some = processes.map((child) => answers(child, 20));
    for (const child of processes) child.send({ directory: base, epochs: 100_000, value: 'owner' });
    await Promise.all(some);
    const exits = processes.map((child) => once(child, 'exit'));
    for (const child of processes) child.kill('SIGKILL');
    await Promise.all(exits);
    const claims = await fileRegister(base).read('vm');
    const epochs = new Set(claims.map((claim) => claim.epoch));
    for (let epoch = 1; epoch <= 20; epoch += 1) expect(epochs).toContain(epoch);
    const last = Math.max(...epochs);
    expect(await fileRegister(base).claim('vm', last, 'destination', 'declined')).toBe('owner');
    expect(await fileRegister(base).claim('vm', last + 1, 'destination', 'declined')).toBe('declined');
    expect(filesIn(base).filter((name) => name.endsWith('.tmp'))).toEqual([]);
  });

  function filesIn(directory: string): string[] {
    return readdirSync(directory, { recursive: true, encoding: 'utf8' });
  }
});
