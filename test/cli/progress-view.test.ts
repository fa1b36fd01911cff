/**
 * Goal: progress that fits the terminal, whatever its size, and bars that never run backwards, whatever the
 * guest does. Method: properties over migrations, sizes and names; and a few pictures, so that somebody has
 * looked at them.
 */
import { stripVTControlCharacters } from 'node:util';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { advance, enter, initialProgress, type ProgressState } from '../../src/cli/progress-state.ts';
import { renderPlainProgress, renderProgress } from '../../src/cli/progress-view.ts';
import type { Phase, Progress, StreamProgress } from '../../src/index.ts';

const mib = 1024 * 1024;
const phases: readonly Phase[] = [
  'connect',
  'prepare',
  'copyDisks',
  'copyMemory',
  'stun',
  'verify',
  'handover',
  'done',
];

function progress(
  elapsedMs: number,
  streams: readonly StreamProgress[],
  more: Partial<Progress> = {},
): Progress {
  const standard = {
    phase: 'copyDisks',
    transferredBytes: 1,
    bytesPerSecond: 0,
    rounds: 0,
    throttle: 0,
    fraction: 0,
    lost: { throttleMs: 0, holdMs: 0, pauseMs: 0 },
  } as const;
  return { ...standard, elapsedMs, streams, ...more };
}

const twoStreams = (diskDone: number, memoryDone: number): StreamProgress[] => [
  { name: 'vda', totalBytes: 256 * mib, doneBytes: diskDone * mib },
  { name: 'memory', totalBytes: 128 * mib, doneBytes: memoryDone * mib },
];

const running = [
  progress(0, twoStreams(0, 0)),
  progress(500, twoStreams(32, 0)),
  progress(1000, twoStreams(64, 0), { bytesPerSecond: 48.2 * mib }),
].reduce(advance, initialProgress);

const view = { role: 'source', columns: 79, rows: 23, color: false } as const;

/** Bytes of any stream, also ones that shrink. */
const streamsArbitrary = (names: readonly string[]) =>
  fc.tuple(
    ...names.map((name) =>
      fc.record({
        name: fc.constant(name),
        totalBytes: fc.constant(1000 * mib),
        doneBytes: fc.integer({ min: 0, max: 1000 * mib }),
      }),
    ),
  );

const historyArbitrary = fc
  .array(fc.string({ unit: 'grapheme', maxLength: 40 }), { maxLength: 6 })
  .chain((names) => fc.array(streamsArbitrary([...new Set(names)]), { minLength: 1, maxLength: 8 }))
  .map((history) => history.map((streams, index) => progress(index * 250, streams)));

describe('bars', () => {
  test('a picture', () => {
    expect(renderProgress(running, view)).toEqual([
      'copying disks  1.00 s  48.2 MiB/s',
      'vda    [#########.............................]  25%   192 MiB left  64.0 MiB/s',
      'memory [......................................]   0%   128 MiB left',
    ]);
  });

  test('a narrow picture leaves out the rate, then what is left, then the bar', () => {
    const first = (columns: number) => renderProgress(running, { ...view, columns })[1];
    expect(first(50)).toBe('vda    [##.......]  25%   192 MiB left  64.0 MiB/s');
    expect(first(48)).toBe('vda    [####...............]  25%   192 MiB left');
    expect(first(30)).toBe('vda    [####............]  25%');
    expect(first(16)).toBe('vda     25%');
    expect(first(6)).toBe('vda ..');
  });

  test('says how the guest is slowed, and which round it is', () => {
    const state = advance(
      running,
      progress(1250, twoStreams(256, 9), { phase: 'copyMemory', rounds: 3, throttle: 0.4 }),
    );
    expect(renderProgress(state, view)[0]).toBe(
      'copying memory  1.25 s  memory round 3  guest slowed by 40%',
    );
  });

  test('says how far all of it is, and how long it will take', () => {
    const prediction = {
      total: { lowMs: 60_000, highMs: 90_000 },
      eta: { lowMs: 58_000, highMs: 89_000 },
      downtime: { lowMs: 50, highMs: 150 },
      converges: 'yes',
      throttle: 0,
    } as const;
    const state = advance(running, progress(1250, twoStreams(64, 0), { fraction: 0.0219, prediction }));
    expect(renderProgress(state, { ...view, columns: 120 })[0]).toBe(
      'copying disks  1.25 s  2% of all  58.0 s to 1 min 29 s left',
    );
    expect(renderPlainProgress(state, 'source')).toContain('2% of all, 58.0 s to 1 min 29 s left');
    const never = advance(state, progress(1500, [], { prediction: { ...prediction, converges: 'no' } }));
    expect(renderPlainProgress(never, 'source')).toContain('will not converge as it is');
  });

  test('what is over has no rate', () => {
    expect(renderProgress(enter(running, 'done'), view).join('\n')).not.toContain('/s');
  });

  test('the destination waits for the source rather than connects', () => {
    const state = enter(initialProgress, 'connect');
    expect(renderProgress(state, { ...view, role: 'destination' })[0]).toBe('waiting for the source  0 ms');
    expect(renderProgress(state, view)[0]).toBe('connecting  0 ms');
  });

  test('colour changes nothing but the colour', () => {
    const colored = renderProgress(running, { ...view, color: true });
    expect(colored.join('')).toContain('\u001b[32m');
    expect(colored.map(stripVTControlCharacters)).toEqual(renderProgress(running, view));
  });

  test('no line is wider and no picture higher than the terminal, and nothing steers it', () => {
    const size = fc.record({
      columns: fc.integer({ min: 1, max: 200 }),
      rows: fc.integer({ min: 1, max: 12 }),
    });
    fc.assert(
      fc.property(historyArbitrary, size, fc.constantFrom(...phases), (history, room, phase) => {
        const state = enter(history.reduce(advance, initialProgress), phase);
        const lines = renderProgress(state, { role: 'source', color: false, ...room });
        expect(lines.length).toBeGreaterThanOrEqual(1);
        expect(lines.length).toBeLessThanOrEqual(room.rows);
        for (const line of lines) {
          expect(line.length).toBeLessThanOrEqual(room.columns);
          expect(line).toMatch(/^[ -~]*$/);
        }
      }),
    );
  });

  test('a bar never runs backwards, and is full only when all is there', () => {
    fc.assert(
      fc.property(fc.array(streamsArbitrary(['vda', 'memory']), { minLength: 1 }), (history) => {
        let state: ProgressState = initialProgress;
        let shown = [0, 0];
        history.forEach((streams, index) => {
          state = advance(state, progress(index * 250, streams));
          const now = renderProgress(state, view)
            .slice(1)
            .map((line) => line.split('#').length - 1);
          now.forEach((columns, at) => {
            expect(columns).toBeGreaterThanOrEqual(shown[at] ?? 0);
          });
          shown = now;
          state.streams.forEach(({ fraction }, at) => {
            const full = history.slice(0, index + 1).some((past) => past[at]?.doneBytes === 1000 * mib);
            expect(fraction === 1).toBe(full);
          });
        });
      }),
    );
  });

  test('what is left is the truth, also where a guest made it more', () => {
    const state = [progress(0, twoStreams(256, 0)), progress(250, twoStreams(200, 0))].reduce(
      advance,
      initialProgress,
    );
    expect(renderProgress(state, view)[1]).toMatch(/100% +56.0 MiB left$/);
  });

  test('where rows are short, memory and the first disks are shown', () => {
    const disks = [1, 2, 3, 4].map((index) => ({ name: `vd${index}`, totalBytes: 10, doneBytes: 5 }));
    const streams = [...disks, { name: 'memory', totalBytes: 10, doneBytes: 0 }];
    const state = advance(initialProgress, progress(0, streams));
    const lines = renderProgress(state, { ...view, rows: 5 });
    expect(lines.map((line) => line.split(' [')[0]?.trim())).toEqual([
      'copying disks  0 ms',
      'vd1',
      'vd2',
      '(and 2 more)',
      'memory',
    ]);
  });

  test('a VM without memory is not waited for', () => {
    const state = advance(initialProgress, progress(0, [{ name: 'memory', totalBytes: 0, doneBytes: 0 }]));
    expect(renderProgress(state, view)[1]).toContain('100%');
  });
});

test('a plain line says the same', () => {
  expect(renderPlainProgress(running, 'source')).toBe(
    'copying disks: vda 25% (192 MiB left), memory 0% (128 MiB left), 48.2 MiB/s',
  );
});
