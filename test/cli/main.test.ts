/**
 * Goal: the program as users get it does what it says, end to end. Method: it is bundled as for a release and
 * run as a process of its own, its output in pipes; `demo` needs nothing else, and moves real bytes through
 * the whole engine.
 */
import { mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ANSWERS, ScriptedQmp } from '../qemu/support/scripted-qmp.ts';
import { type BuiltCli, buildCli } from './support/built-cli.ts';

let cli: BuiltCli;
let state = '';
beforeAll(async () => {
  cli = await buildCli();
  state = mkdtempSync(join(tmpdir(), 'longhaul-cli-'));
});
afterAll(() => {
  cli[Symbol.dispose]();
  rmSync(state, { recursive: true, force: true });
});

const packageJson = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'));

const fastDemo = ['demo', '--rtt-ms', '5', '--rate-mbit', '4000'];
/** Slow enough to be interrupted in the middle. */
const slowDemo = ['demo', '--rtt-ms', '5', '--rate-mbit', '50'];

describe('the process', () => {
  test('is what package.json names, and can be executed by its name', () => {
    expect(cli.script.endsWith(packageJson.bin.longhaul.replace('./', '/'))).toBe(true);
    expect(readFileSync(cli.script, 'utf8').split('\n')[0]).toBe('#!/usr/bin/env node');
    expect(statSync(cli.script).mode & 0o111).not.toBe(0);
  });

  test('knows its version', async () => {
    expect(await cli.run(['--version'])).toMatchObject({
      code: 0,
      stdout: `${packageJson.version}\n`,
      stderr: '',
    });
  });

  test('tells an error that nobody foresaw, and that it does not know who has the VM', async () => {
    const fault = 'data:text/javascript,process.on("SIGUSR2",()=>{throw(new(TypeError)("oops"))})';
    const demo = cli.start([...slowDemo, '--json'], {
      NODE_OPTIONS: `--import=${fault.replaceAll('"', '%22')}`,
    });
    await demo.line(/^copying disks$/);
    demo.child.kill('SIGUSR2');
    const { code, stdout, stderr } = await demo.ended;
    expect(code).toBe(2);
    expect(stderr).toContain('TypeError: oops');
    expect(JSON.parse(stdout)).toMatchObject({ owner: 'undecided', error: { message: 'oops' } });
  });

  test('ends with 64 for wrong usage, told on stderr', async () => {
    const { code, stdout, stderr } = await cli.run(['send', '--to', 'localhost:1']);
    expect({ code, stdout }).toEqual({ code: 64, stdout: '' });
    expect(stderr).toBe("longhaul send: --qmp is missing\nTry 'longhaul send --help'.\n");
  });
});

describe('demo', { timeout: 120_000 }, () => {
  test('moves a VM, and its last line of stdout is the report', async () => {
    const { code, stdout, stderr } = await cli.run([...fastDemo, '--json']);
    expect(code, stderr).toBe(0);
    const lines = stdout.trimEnd().split('\n');
    expect(lines).toHaveLength(1);
    const report = JSON.parse(lines.at(-1) ?? '');
    expect(report).toMatchObject({
      role: 'source',
      outcome: 'completed',
      owner: 'destination',
      error: null,
      equal: true,
      destination: { role: 'destination', outcome: 'completed', owner: 'destination', error: null },
    });
    const mib = 1024 * 1024;
    expect(report.bytes.memory).toBeGreaterThanOrEqual(128 * mib);
    expect(report.bytes.disk).toBeGreaterThan(100 * mib);
    expect(report.bytes.mirror).toBeGreaterThan(0);
    expect(report.downtimeMs).toBeGreaterThan(0);
    for (const span of ['before', 'during', 'after'])
      expect(report.guest[span].writesPerSecond).toBeGreaterThan(0);
  });

  test('says the same to a person, without a control character', async () => {
    const { code, stdout, stderr } = await cli.run(fastDemo);
    expect(code, stderr).toBe(0);
    expect(stdout).toMatch(/^Completed: demo has moved, the destination has it\.$/m);
    for (const row of ['total', 'downtime', 'memory', 'disks', 'guest writes', 'memory rounds']) {
      expect(stdout).toMatch(new RegExp(`^${row} +\\S+`, 'm'));
    }
    expect(stdout).toMatch(/^the guest +before +during +after$/m);
    expect(stdout).toMatch(/^memory and disks when the guest was started: equal$/m);
    for (const phase of [
      'connecting',
      'copying disks',
      'copying memory',
      'pausing the guest',
      'handing over',
    ]) {
      expect(stderr.split('\n')).toContain(phase);
    }
    expect(stdout + stderr).toMatch(/^[\n -~\u2019]*$/);
  });

  test('a signal ends it with the guest on the source', async () => {
    const demo = cli.start([...slowDemo, '--json']);
    await demo.line(/^copying disks$/);
    demo.child.kill('SIGTERM');
    const { code, stdout, stderr } = await demo.ended;
    expect(code, stderr).toBe(1);
    expect(stderr).toContain('SIGTERM: ending; the guest stays on the source');
    expect(JSON.parse(stdout)).toMatchObject({
      outcome: 'failed',
      owner: 'source',
      equal: null,
      error: {
        code: 'aborted',
        message: 'interrupted by SIGTERM',
        phase: 'copyDisks',
        owner: 'source',
        guest: 'running',
      },
    });
  });

  test('goes on when nobody reads its output any more', async () => {
    const demo = cli.start([...fastDemo, '--json']);
    await demo.line(/^copying disks$/);
    demo.child.stdout?.destroy();
    demo.child.stderr?.destroy();
    expect((await demo.ended).code).toBe(0);
  });
});

describe('receive', () => {
  test('says where it listens as soon as it does, and ends when it is told to', async () => {
    const receive = cli.start(['receive', '--qmp', '/nowhere', '--listen', '127.0.0.1:0', '--json'], {
      XDG_STATE_HOME: state,
    });
    const [, port] = await receive.line(/^listening on 127\.0\.0\.1:(\d+)$/);
    const socket = connect(Number(port), '127.0.0.1');
    await new Promise((resolve, reject) => socket.once('connect', resolve).once('error', reject));
    socket.on('error', () => {}).destroy();
    receive.child.kill('SIGINT');
    const { code, stdout } = await receive.ended;
    expect(code).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({
      role: 'destination',
      outcome: 'failed',
      owner: 'source',
      error: { code: 'aborted', phase: 'connect' },
    });
  });
});

describe('send', () => {
  const send = (path: string, ...more: string[]) =>
    cli.run(['send', `--qmp=${path}`, '--to=localhost:1', `--register=${state}`, '--json', ...more]);

  test('without a QEMU fails, and says that the VM is where it was', async () => {
    const { code, stdout, stderr } = await send('/nowhere/qmp');
    expect(code, stderr).toBe(1);
    expect(JSON.parse(stdout)).toMatchObject({
      role: 'source',
      outcome: 'failed',
      owner: 'source',
      error: { code: 'connect-failed', owner: 'source' },
    });
  });

  test('passes on what is to become of a disk', async () => {
    const path = join(state, 'qmp');
    await using _ = await ScriptedQmp.listen(path, { version: [10, 0], answers: ANSWERS });
    const { code, stdout, stderr } = await send(path, '--disk=vd7=leave');
    expect(code, stderr).toBe(1);
    expect(JSON.parse(stdout).error).toMatchObject({
      code: 'invalid-argument',
      message: expect.stringMatching(/vd7/),
    });
  });
});
