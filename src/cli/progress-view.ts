/** How progress looks: from its state to lines of text. */
import type { Phase } from '../index.ts';
import type { ProgressState, StreamState } from './progress-state.ts';
import { formatBytes, formatInterval, formatMs, formatRate } from './units.ts';

/** Which end shows its progress. */
export type Role = 'source' | 'destination';

/** The room for the lines, and whether they may be coloured. */
export interface ViewOptions {
  readonly role: Role;
  readonly columns: number;
  readonly rows: number;
  readonly color: boolean;
}

const phaseNames: Readonly<Record<Phase, string>> = {
  idle: 'starting',
  connect: 'connecting',
  prepare: 'preparing',
  copyDisks: 'copying disks',
  copyMemory: 'copying memory',
  stun: 'pausing the guest',
  verify: 'verifying',
  handover: 'handing over',
  release: 'letting go',
  done: 'ended',
};

/** What an end does in a phase, in two or three words. */
export function phaseName(phase: Phase, role: Role): string {
  if (role === 'destination' && phase === 'connect') return 'waiting for the source';
  return phaseNames[phase];
}

/** Names longer than this are cut: the room is the bar's. */
const nameColumnsMax = 24;
/** A bar that is shorter says less than its percentage. */
const barColumnsMin = 8;
const barColumnsMax = 50;

/**
 * A line of what is going on, then a bar for each stream, memory last. No line is wider than `columns`, and
 * there are `rows` at most: where the room is short, columns are left out from the right, and streams from
 * the middle.
 */
export function renderProgress(state: ProgressState, options: ViewOptions): readonly string[] {
  const { columns, rows } = options;
  const head = clip(headline(state, options.role), columns);
  const room = rows - 1;
  if (state.streams.length <= room) return [head, ...renderStreams(state.streams, options)];
  if (room < 2) return [head];
  // Memory, and as many disks as there is room for.
  const shown = [...state.streams.slice(0, room - 2), ...state.streams.slice(-1)];
  const lines = renderStreams(shown, options);
  const hidden = clip(`(and ${state.streams.length - shown.length} more)`, columns);
  return [head, ...lines.slice(0, -1), hidden, ...lines.slice(-1)];
}

function headline(state: ProgressState, role: Role): string {
  const parts = [phaseName(state.phase, role), formatMs(state.elapsedMs)];
  // A rate over the last second says nothing of what is over.
  if (state.phase === 'done') return parts.join('  ');
  if (state.bytesPerSecond > 0) parts.push(formatRate(state.bytesPerSecond));
  if (state.rounds > 0) parts.push(`memory round ${state.rounds}`);
  if (state.throttle > 0) parts.push(`guest slowed by ${Math.round(state.throttle * 100)}%`);
  parts.push(...outlook(state));
  return parts.join('  ');
}

/** How far all of it is, and how long it will take, where that is known. */
function outlook({ fraction, prediction }: ProgressState): readonly string[] {
  if (prediction === undefined) return [];
  const all = `${Math.floor(fraction * 100)}% of all`;
  if (prediction.converges === 'no') return [all, 'will not converge as it is'];
  return [all, `${formatInterval(prediction.eta)} left`];
}

function renderStreams(streams: readonly StreamState[], options: ViewOptions): readonly string[] {
  const names = streams.map(({ name }) => asciiName(name));
  const left = streams.map(({ leftBytes }) => `${formatBytes(leftBytes)} left`);
  const rate = streams.map(({ bytesPerSecond }) => (bytesPerSecond > 0 ? formatRate(bytesPerSecond) : ''));
  const nameColumns = widest(names);
  // 1023 KiB/s is as wide as they get: columns that come and go would make the bars jump.
  const leftColumns = Math.max(widest(left), '1023 KiB left'.length);
  const rateColumns = Math.max(widest(rate), '1023 KiB/s'.length);
  const fixed = nameColumns + ' [] 100%'.length;
  const withLeft = fixed + 2 + leftColumns;
  const withRate = withLeft + 2 + rateColumns;
  const fits = (needed: number) => needed + barColumnsMin <= options.columns;
  const needed = fits(withRate) ? withRate : fits(withLeft) ? withLeft : fixed;
  const barColumns = Math.min(barColumnsMax, options.columns - needed);
  return streams.map((stream, index) => {
    const percent = `${Math.floor(stream.fraction * 100)}%`.padStart(4);
    const name = (names[index] ?? '').padEnd(nameColumns);
    if (barColumns < barColumnsMin) return clip(`${name} ${percent}`, options.columns);
    let line = `${name} [${bar(stream.fraction, barColumns, options.color)}] ${percent}`;
    if (needed >= withLeft) line += `  ${(left[index] ?? '').padStart(leftColumns)}`;
    if (needed >= withRate) line += `  ${(rate[index] ?? '').padStart(rateColumns)}`;
    return line.trimEnd();
  });
}

function bar(fraction: number, columns: number, color: boolean): string {
  const full = '#'.repeat(Math.floor(fraction * columns));
  const rest = '.'.repeat(columns - full.length);
  return color && full !== '' ? `\u001b[32m${full}\u001b[0m${rest}` : full + rest;
}

/**
 * One line for where nothing can be redrawn: `copying disks: vda 42% (120 MiB left), memory 0% (128 MiB
 * left), 48.2 MiB/s`.
 */
export function renderPlainProgress(state: ProgressState, role: Role): string {
  const streams = state.streams.map(({ name, fraction, leftBytes }) => {
    const left = leftBytes > 0 ? ` (${formatBytes(leftBytes)} left)` : '';
    return `${asciiName(name)} ${Math.floor(fraction * 100)}%${left}`;
  });
  const parts = [...streams, formatRate(state.bytesPerSecond), ...outlook(state)];
  return `${phaseName(state.phase, role)}: ${parts.join(', ')}`;
}

/**
 * A disk's name may be the peer's word: nothing in it may steer the terminal, or be of another width than it
 * seems.
 */
function asciiName(name: string): string {
  return clip(name.replaceAll(/[^ -~]/gu, '?'), nameColumnsMax);
}

function clip(text: string, columns: number): string {
  if (text.length <= columns) return text;
  return columns <= 3 ? text.slice(0, columns) : `${text.slice(0, columns - 2)}..`;
}

function widest(texts: readonly string[]): number {
  return texts.reduce((width, text) => Math.max(width, text.length), 0);
}
