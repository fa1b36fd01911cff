/** How reports look: from a report to lines of text. */
import type {
  AuditReport,
  CompressionStatistics,
  DowntimeParts,
  GuestState,
  HookDurations,
  MigrationError,
  MigrationReport,
  Owner,
  RecoveryReport,
  RunState,
} from '../index.ts';
import { phaseName } from './progress-view.ts';
import { formatBytes, formatCount, formatMs, printable } from './units.ts';

/** A name and a value. */
export type Row = readonly [name: string, value: string];

/** Rows as lines, the values below each other. */
export function renderRows(rows: readonly Row[]): readonly string[] {
  const width = rows.reduce((widest, [name]) => Math.max(widest, name.length), 0);
  return rows.map(([name, value]) => `${name.padEnd(width)}  ${value}`.trimEnd());
}

/**
 * What an operator wants to know of a migration that is over: who has the VM, then the figures as far as
 * there are any.
 */
export function renderReport(report: MigrationReport): readonly string[] {
  return [...renderOutcome(report), '', ...renderRows(reportRows(report))];
}

/** Who has the VM, and why, if that is not as it was to be. */
export function renderOutcome(report: MigrationReport): readonly string[] {
  const { role, vmId, epoch, outcome, error } = report;
  if (outcome === 'completed') {
    const where = role === 'source' ? 'the destination has it' : 'it is here';
    const done = `Completed: ${printable(vmId)} has moved, ${where}.`;
    return error === undefined ? [done] : [done, `But: ${printable(error.message)}`];
  }
  if (outcome === 'rehearsed') {
    const stays = role === 'source' ? 'its guest runs on here' : 'its guest runs on at the source';
    return [`Rehearsed: ${printable(vmId)} can move; ${stays}, and nothing was claimed.`];
  }
  if (outcome === 'copied') {
    const stays = role === 'source' ? 'its guest runs on here' : 'its guest runs on at the source';
    const done = `Copied: the disks of ${printable(vmId)} are at the destination; ${stays}.`;
    return error === undefined ? [done] : [done, `But: ${printable(error.message)}`];
  }
  const failure = error === undefined ? [] : renderError(error, role);
  if (outcome === 'failed') return failure;
  const recovery = `longhaul recover --role ${role}${epoch > 0 ? ` --epoch ${epoch}` : ''}`;
  return [...failure, `Once the other end can be reached, settle it with: ${recovery} ...`];
}

/** An error: what and where, and who owns the VM now. */
export function renderError(error: MigrationError, role: MigrationReport['role']): readonly string[] {
  const where = error.phase === 'idle' ? 'before it began' : `while ${phaseName(error.phase, role)}`;
  const lines = [`Failed ${where} (${error.code}): ${printable(error.message)}`];
  const { cause } = error;
  const why = cause instanceof Error ? cause.message : '';
  if (why !== '' && !error.message.includes(why)) lines.push(`Caused by: ${printable(why)}`);
  return [...lines, renderOwner(error.owner, error.guest)];
}

const guestWords: Readonly<Record<GuestState, string>> = {
  running: 'its guest runs',
  paused: 'its guest is paused',
  lost: 'its guest is lost',
  unknown: 'how its guest is, is not known here',
};

function renderOwner(owner: Owner, guest: GuestState): string {
  if (owner === 'undecided')
    return 'Who owns the VM is undecided: run its guest at neither end until that is settled.';
  return `The ${owner} owns the VM; ${guestWords[guest]}.`;
}

function reportRows(report: MigrationReport): readonly Row[] {
  const { bytes, guestWrites, role } = report;
  const rows: Row[] = [['total', formatMs(report.totalMs)]];
  if (report.downtimeMs > 0) rows.push(['downtime', downtimeText(report)]);
  if (report.epoch === 0) return rows;
  rows.push(
    ['memory', formatBytes(bytes.memory)],
    ['disks', formatBytes(bytes.disk)],
    ...(bytes.unchanged > 0 ? [['there already', formatBytes(bytes.unchanged)] as const] : []),
    ['guest writes', formatBytes(bytes.mirror)],
    ['device state', formatBytes(bytes.state)],
    ['on the wire', formatBytes(bytes.wire)],
    ...(report.compression === undefined
      ? []
      : [['compressed', compressedText(report.compression)] as const]),
    ['round trip', formatMs(report.roundTripMs)],
  );
  const gone = report.outages.map(({ durationMs }) => formatMs(durationMs));
  if (gone.length > 0) rows.push(['link gone', gone.length > 3 ? `${gone.length} times` : gone.join(', ')]);
  if (report.hooks !== undefined) rows.push(['hooks', hooksText(report.hooks)]);
  if (report.audit.units > 0) rows.push(['audited', auditText(report.audit)]);
  if (role === 'destination') return rows;
  if (report.switchoverAttempts > 1) rows.push(['switchovers', formatCount(report.switchoverAttempts)]);
  const { mirrored, setBack } = guestWrites;
  rows.push(['memory rounds', formatCount(report.rounds)]);
  if (mirrored + setBack > 0) {
    rows.push(['writes mirrored', `${formatCount(mirrored)}, ${formatCount(setBack)} copied again instead`]);
  }
  if (report.guestWriteHoldMs > 0) rows.push(['writes held', `${formatMs(report.guestWriteHoldMs)} at most`]);
  if (report.throttleMax > 0) {
    const how = `${Math.round(report.throttleMax * 100)}% at most, for ${formatMs(report.throttledMs)}`;
    rows.push(['guest slowed', `${how}; ${formatMs(report.lost.throttleMs)} lost`]);
  }
  return rows;
}

/** For a single unit that is wrong, how likely it was not to be seen. */
function auditText({ units, bytes, differing, missChance }: AuditReport): string {
  const all = missChance === 0;
  // Never 100%, nor 0, where it is not that.
  const chance = Math.min(99.99, Math.max(0.01, 100 * missChance)).toFixed(2);
  const compared = all ? `all, ${formatBytes(bytes)}` : `${formatCount(units)} units, ${formatBytes(bytes)}`;
  const missed = all ? '' : `; a single wrong one is missed at ${chance}%`;
  return `${compared}; ${differing === 0 ? 'none' : formatCount(differing)} differed${missed}`;
}

function compressedText({ codec, inputBytes, savedBytes }: CompressionStatistics): string {
  return inputBytes === 0
    ? `nothing, it would not have paid (${codec})`
    : `${formatBytes(inputBytes)} to ${formatBytes(inputBytes - savedBytes)} (${codec})`;
}

/** What of a downtime is said beside the whole: its longest parts. */
const partsShown = 3;

const partWords: Readonly<Record<Exclude<keyof DowntimeParts, 'uncertaintyMs'>, string>> = {
  quiesceMs: 'stopping the guest',
  lastRoundsMs: 'last pages',
  stateMs: 'device state',
  mirrorMs: 'last writes',
  flightMs: 'on the way',
  applyMs: 'arriving',
  flushMs: 'flush',
  verifyMs: 'verifying',
  loadMs: 'loading',
  sealMs: 'sealing',
  claimsMs: 'claims',
  hooksMs: 'hooks',
  startMs: 'start',
};

function downtimeText({ downtimeMs, downtime }: MigrationReport): string {
  if (downtime === undefined) return formatMs(downtimeMs);
  const parts = Object.entries(partWords).map(
    ([part, words]) => [downtime[part as keyof DowntimeParts], words] as const,
  );
  const longest = parts.filter(([ms]) => ms >= 1).sort(([a], [b]) => b - a);
  const shown = longest.slice(0, partsShown).map(([ms, words]) => `${words} ${formatMs(ms)}`);
  return shown.length === 0 ? formatMs(downtimeMs) : `${formatMs(downtimeMs)}: ${shown.join(', ')}`;
}

function hooksText({ beforeStartMs, afterStartMs }: HookDurations): string {
  const before = beforeStartMs === undefined ? [] : [`${formatMs(beforeStartMs)} before the start`];
  const after = afterStartMs === undefined ? [] : [`${formatMs(afterStartMs)} after it`];
  return [...before, ...after].join(', ');
}

/** Where a recovery has looked, and how the guest is now, where that is known. */
export interface RecoveryContext {
  /** The register's directory. */
  readonly register: string;
  readonly guest: RunState | undefined;
}

/** What a recovery found and did. */
export function renderRecovery(report: RecoveryReport, context: RecoveryContext): readonly string[] {
  const attempt = report.epoch === 0 ? 'none that concerns this end' : String(report.epoch);
  return [
    recoveryText(report, context.guest),
    '',
    ...renderRows([
      ...recoveryRows(report.vmId, context.register),
      ['attempt', attempt],
      ['owner', report.owner],
    ]),
  ];
}

/** Which VM a recovery was about, and which register it went by: with another it may come to something else. */
export function recoveryRows(vmId: string, register: string): readonly Row[] {
  return [
    ['VM', vmId === '' ? 'not known' : printable(vmId)],
    ['register', printable(register)],
  ];
}

function recoveryText({ action, owner }: RecoveryReport, guest: RunState | undefined): string {
  const runs = guest === 'paused' ? 'its guest is paused, as it was' : 'its guest runs';
  switch (action) {
    case 'resumed':
      return `The VM is the source\u2019s, and ${runs}.`;
    case 'reclaimed':
      return `The destination declined: the source has the VM back, and ${runs}.`;
    case 'released':
      return 'The destination owns the VM: it was let go of here.';
    case 'started':
      return 'The VM is this end\u2019s, and its guest runs.';
    case 'declined':
      return 'The VM never starts here in that attempt: the source may have it back.';
    case 'undecided':
      return 'Undecided: do not run the guest. Ask again when the destination can be reached (--ask).';
    case 'none':
      return owner === 'undecided'
        ? 'Undecided: nothing was done.'
        : `Nothing to do: the VM is the ${owner}\u2019s.`;
  }
}
