/**
 * Goal: a signal ends the work cleanly, once, and the user is told what comes of it. Method: signals from an
 * emitter in place of the process.
 */
import { EventEmitter } from 'node:events';
import { expect, test } from 'vitest';
import { interruptible } from '../../src/cli/signals.ts';
import type { Phase } from '../../src/index.ts';

function start() {
  const source = new EventEmitter();
  const said: string[] = [];
  const interruption = interruptible(source, 'the guest stays here', (line) => said.push(line));
  return { source, said, interruption, raise: (name: string) => source.emit(name, name) };
}

test.each(['SIGINT', 'SIGTERM', 'SIGHUP'])('%s aborts with a reason that names it', (name) => {
  const { interruption, said, raise } = start();
  expect(interruption.signal.aborted).toBe(false);
  raise(name);
  expect(interruption.signal.reason).toMatchObject({ code: 'aborted', message: `interrupted by ${name}` });
  expect(said).toEqual([`${name}: ending; the guest stays here`]);
});

test('a second one changes nothing', () => {
  const { interruption, said, raise } = start();
  raise('SIGINT');
  raise('SIGTERM');
  expect(interruption.signal.reason).toMatchObject({ message: 'interrupted by SIGINT' });
  expect(said[1]).toMatch(/^SIGTERM: ending already/);
});

test.each([
  ['handover', /what the destination decides counts/],
  ['release', /too late/],
  ['done', /too late/],
] satisfies [Phase, RegExp][])('in %s it does not promise that the guest stays', (phase, text) => {
  const { interruption, said, raise } = start();
  interruption.enter(phase);
  raise('SIGINT');
  expect(said[0]).toMatch(text);
  expect(said[0]).not.toContain('the guest stays here');
});

test('afterwards signals are the process\u2019s own again', () => {
  const { source, interruption } = start();
  interruption.close();
  expect(source.eventNames()).toEqual([]);
});
