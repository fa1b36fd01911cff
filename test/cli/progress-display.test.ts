/**
 * Goal: on a terminal progress is redrawn in place below what was said; anywhere else it is plain lines, few
 * and without control characters. Method: a migration whose events the test emits, and a terminal small
 * enough to write down.
 */
import { EventEmitter } from 'node:events';
import { describe, expect, test } from 'vitest';
import { showProgress } from '../../src/cli/progress-display.ts';
import { Screen } from '../../src/cli/screen.ts';
import type { Migration, Phase, Progress } from '../../src/index.ts';
import { KeptText } from './support/context.ts';

/** A migration that does nothing but emit what it is told to. */
class FakeMigration extends EventEmitter implements Migration {
  run(): never {
    throw new Error('not a real one');
  }

  phase(phase: Phase): void {
    this.emit('phase', phase);
  }

  progress(phase: Phase, elapsedMs: number, doneBytes: number): void {
    const progress: Progress = {
      phase,
      elapsedMs,
      transferredBytes: doneBytes,
      bytesPerSecond: 1024,
      streams: [{ name: 'vda', totalBytes: 10_240, doneBytes }],
      rounds: 0,
      throttle: 0,
      fraction: 0,
      lost: { throttleMs: 0, holdMs: 0, pauseMs: 0 },
    };
    this.emit('progress', progress);
  }
}

/**
 * What a terminal shows after all that was written: lines, "up" and "erase below" are all that it needs to
 * know.
 */
function terminal(text: string): readonly string[] {
  const lines: string[] = [''];
  let row = 0;
  // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what a terminal is steered with.
  for (const [part] of text.matchAll(/\u001b\[\d*[A-Za-z]|\n|[^\n\u001b]+/g)) {
    if (part.startsWith('\u001b') && part.endsWith('A')) row -= Number.parseInt(part.slice(2), 10);
    else if (part === '\u001b[J') lines.splice(row, lines.length, '');
    else if (part === '\n') lines[++row] ??= '';
    else if (!part.startsWith('\u001b')) lines[row] += part;
  }
  expect(row).toBeGreaterThanOrEqual(0);
  return lines;
}

function show(sink: KeptText, env: NodeJS.ProcessEnv = {}) {
  const screen = new Screen(sink, env);
  const migration = new FakeMigration();
  return { screen, migration, hide: showProgress(migration, 'source', screen) };
}

const size = { columns: 40, rows: 10 };

describe('on a terminal', () => {
  test('the same lines are redrawn, and what is said meanwhile stays above them', () => {
    const sink = new KeptText(size);
    const { screen, migration, hide } = show(sink, { NO_COLOR: '1' });
    screen.log('before');
    migration.phase('copyDisks');
    migration.progress('copyDisks', 250, 1024);
    migration.progress('copyDisks', 500, 2048);
    screen.log('meanwhile');
    migration.progress('copyDisks', 750, 5120);
    hide();
    screen.log('after');
    expect(terminal(sink.text)).toEqual([
      'before',
      'meanwhile',
      'copying disks  750 ms  1.00 KiB/s',
      'vda [######.......]  50%  5.00 KiB left',
      'after',
      '',
    ]);
  });

  test('nothing is drawn any more once it is hidden', () => {
    const sink = new KeptText(size);
    const { migration, hide } = show(sink);
    hide();
    migration.phase('copyDisks');
    migration.progress('copyDisks', 250, 1024);
    expect(sink.text).toBe('');
  });

  test('colours only where they are welcome', () => {
    const drawn = (env: NodeJS.ProcessEnv) => {
      const sink = new KeptText(size);
      show(sink, env).migration.progress('copyDisks', 250, 5120);
      return sink.text;
    };
    expect(drawn({})).toContain('\u001b[32m');
    expect(drawn({ NO_COLOR: '' })).toContain('\u001b[32m');
    expect(drawn({ NO_COLOR: '1' })).not.toContain('\u001b[32m');
  });

  test('a terminal that does not say its size is taken for a common one', () => {
    const sink = new KeptText({ columns: 0, rows: 0 });
    expect(new Screen(sink, {}).size).toEqual({ columns: 79, rows: 23 });
  });
});

describe.each([
  ['in a pipe', undefined, {}],
  ['on a dumb terminal', size, { TERM: 'dumb' }],
])('%s', (_, room, env) => {
  test('a line for each phase, and one a second while bytes move', () => {
    const sink = new KeptText(room);
    const { migration, hide } = show(sink, env);
    migration.phase('connect');
    for (let ms = 250; ms <= 2500; ms += 250) migration.progress('connect', ms, 0);
    migration.phase('copyDisks');
    for (let ms = 2750; ms <= 4750; ms += 250) migration.progress('copyDisks', ms, ms);
    migration.phase('done');
    hide();
    expect(sink.text).toBe(
      [
        'connecting',
        'copying disks',
        'copying disks: vda 26% (7.31 KiB left), 1.00 KiB/s',
        'copying disks: vda 36% (6.34 KiB left), 1.00 KiB/s',
        'copying disks: vda 46% (5.36 KiB left), 1.00 KiB/s',
        '',
      ].join('\n'),
    );
  });
});
