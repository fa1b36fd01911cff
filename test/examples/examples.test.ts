/**
 * Goal: every example runs, against the package as it is published, and does what it says. Method: each is
 * run as a process of its own; the examples themselves find out whether the guest arrived in one piece, and
 * end with 1 if it did not.
 */
import { rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type BuiltExamples, buildExamples } from './support/built-examples.ts';

let examples: BuiltExamples;
beforeAll(async () => {
  examples = await buildExamples();
});
afterAll(() => examples[Symbol.dispose]());

/** What each has to print, as lines or parts of them, in this order. */
const expected: Readonly<Record<string, readonly RegExp[]>> = {
  embed: [
    /^connect\nprepare\ncopyDisks\ncopyMemory\nstun\nverify\nhandover\nrelease\ndone\n/,
    /^completed: the destination owns web-1; its guest is running there\n$/m,
  ],
  'in-process': [
    /^copyDisks: vda \d+%, memory 0%, \d+ MB\/s$/m,
    /^memory round 1: 33\.55 MB, /m,
    /are equal\n$/,
  ],
  'two-processes': [
    /^receive: listening on port \d+$/m,
    /^receive: completed, the destination owns web-1$/m,
    /^receive: its guest is running, and has written [1-9]\d* times$/m,
  ],
  'control-plane-register': [
    /^source: {6}undecided \(owner-undecided\), its guest is paused\n/,
    /^destination: completed, its guest is running\n/m,
    /^recover\(\): {3}released, the destination owns web-1; here it is released\n/m,
    /^ {2}ownership\/web-1\/\d+\/source = given\n {2}ownership\/web-1\/\d+\/destination = owner\n$/m,
  ],
  'control-plane-test': [
    /^a link that is cut during the memory copy: failed, the source owns the VM, connection-lost\n/,
    /^a destination that dies after READY: failed, the source owns the VM, declined\n/m,
    /^a cancel in the last second: failed, the source owns the VM, aborted\n$/m,
  ],
  'own-hypervisor': [
    /^round 1: 1024 pages\nround 2: /,
    /^source: completed\ndestination: completed\nwrites mirrored: [1-9]\d*\n/m,
    /^the guest is in one piece, and went on\n$/m,
  ],
};

for (const [name, patterns] of Object.entries(expected)) {
  test(name, async () => {
    const { code, stdout, stderr } = await examples.run(name);
    expect(code, stdout + stderr).toBe(0);
    expect(stderr).toBe('');
    for (const pattern of patterns) expect(stdout).toMatch(pattern);
  });
}

test('disks-alone', async () => {
  const { code, stdout, stderr } = await examples.run('disks-alone');
  const [, path = '', allocated] =
    /^vda is (\/\S+): 67108864 bytes, of which (\d+) are allocated$/m.exec(stdout) ?? [];
  if (path !== '') rmSync(dirname(path), { recursive: true });
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(stdout).toMatch(/^copied: the source owns web-1, which is running\n/);
  expect(Number(allocated)).toBeLessThan(48 << 20);
});

test('the two ends of two-processes can be started by hand', async () => {
  const receiver = examples.start('two-processes', ['receive']);
  const port = new Promise<string>((resolve) => {
    receiver.child.stdout?.on('data', (text: string) => {
      const [, found] = /listening on port (\d+)/.exec(text) ?? [];
      if (found !== undefined) resolve(found);
    });
  });
  const sent = await examples.run('two-processes', ['send', await port]);
  expect(sent).toMatchObject({
    code: 0,
    stdout: 'send: completed, the destination owns web-1\n',
    stderr: '',
  });
  expect((await receiver.ended).code).toBe(0);
});

test('Ctrl-C leaves the guest of in-process at the source', async () => {
  const example = examples.start('in-process');
  await new Promise<void>((resolve) => {
    example.child.stdout?.on('data', (text: string) => {
      if (text.includes('copyDisks')) resolve();
    });
  });
  example.child.kill('SIGINT');
  const { code, stdout } = await example.ended;
  expect(stdout).toMatch(/^failed \(aborted\): the source owns web-1, which is running\n$/m);
  expect(code).toBe(1);
});

test('each is tested: here, or the one for QEMU in qemu.test.ts', () => {
  expect([...Object.keys(expected), 'disks-alone', 'qemu'].sort()).toEqual([...examples.names].sort());
});
