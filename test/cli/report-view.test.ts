/**
 * Goal: a summary that answers an operator's questions (who has the VM, is its guest running, what now), and
 * JSON that says the same to a script. Method: reports of every ending, written down.
 */
import { describe, expect, test } from 'vitest';
import { foreseen, notBegun } from '../../src/cli/conclude.ts';
import { exitCodeOf } from '../../src/cli/exit-code.ts';
import { reportJson } from '../../src/cli/report-json.ts';
import { renderRecovery, renderReport } from '../../src/cli/report-view.ts';
import { UsageError } from '../../src/cli/usage-error.ts';
import { errorCodes, MigrationError, type MigrationReport, type RecoveryReport } from '../../src/index.ts';

const mib = 1024 * 1024;

const completed: MigrationReport = {
  role: 'source',
  vmId: 'web-1',
  epoch: 3,
  outcome: 'completed',
  owner: 'destination',
  totalMs: 7420,
  downtimeMs: 262,
  switchoverAttempts: 1,
  phases: { connect: 201 },
  bytes: { memory: 129 * mib, disk: 128 * mib, unchanged: 0, mirror: 9.8 * mib, state: 512, wire: 270 * mib },
  rounds: 4,
  throttleMax: 0.4,
  throttledMs: 12_300,
  outages: [],
  lost: { throttleMs: 4200, holdMs: 0, pauseMs: 0 },
  guestWrites: { mirrored: 1234, setBack: 5 },
  audit: { mode: 'sample', units: 1024, bytes: 4 << 20, differing: 0, missChance: 0.96 },
  guestWriteHoldMs: 0,
  roundTripMs: 100,
};

function failed(error: MigrationError, more: Partial<MigrationReport> = {}): MigrationReport {
  const outcome = error.owner === 'undecided' ? 'undecided' : 'failed';
  return { ...completed, outcome, owner: error.owner, error, ...more };
}

const first = (report: MigrationReport) => renderReport(report).slice(0, renderReport(report).indexOf(''));

describe('the summary', () => {
  test('of one that could compress says what that came to, at either end', () => {
    const compressed = (inputBytes: number, savedBytes: number, role: MigrationReport['role']) => {
      const compression = { codec: 'lz4', inputBytes, savedBytes, callsMs: 700 };
      return renderReport({ ...completed, role, compression }).find((line) => line.startsWith('compressed'));
    };
    for (const role of ['source', 'destination'] as const) {
      expect(compressed(200 * mib, 150 * mib, role)).toMatch(/^compressed +200 MiB to 50.0 MiB \(lz4\)$/);
      expect(compressed(0, 0, role)).toMatch(/^compressed +nothing, it would not have paid \(lz4\)$/);
    }
  });

  test('of a migration that completed', () => {
    expect(renderReport(completed)).toEqual([
      'Completed: web-1 has moved, the destination has it.',
      '',
      'total            7.42 s',
      'downtime         262 ms',
      'memory           129 MiB',
      'disks            128 MiB',
      'guest writes     9.80 MiB',
      'device state     512 B',
      'on the wire      270 MiB',
      'round trip       100 ms',
      'audited          1,024 units, 4.00 MiB; none differed; a single wrong one is missed at 96.00%',
      'memory rounds    4',
      'writes mirrored  1,234, 5 copied again instead',
      'guest slowed     40% at most, for 12.3 s; 4.20 s lost',
    ]);
  });

  test('of what was audited, as far as anything was', () => {
    const audited = (audit: Partial<MigrationReport['audit']>) =>
      renderReport({ ...completed, audit: { ...completed.audit, ...audit } }).find((line) =>
        line.startsWith('audited'),
      );
    expect(audited({ units: 0 })).toBeUndefined();
    expect(audited({ missChance: 0, bytes: 512 * mib, differing: 1 })).toMatch(/ all, 512 MiB; 1 differed$/);
    expect(audited({ missChance: 0.9999999 })).toMatch(/missed at 99.99%$/);
    expect(audited({ missChance: 0.0000001 })).toMatch(/missed at 0.01%$/);
  });

  test('of one that needed more than one switchover', () => {
    expect(renderReport({ ...completed, switchoverAttempts: 3 })).toContain('switchovers      3');
  });

  test('of a rehearsal', () => {
    const rehearsed = { ...completed, outcome: 'rehearsed', owner: 'source' } as const;
    expect(first(rehearsed)).toEqual([
      'Rehearsed: web-1 can move; its guest runs on here, and nothing was claimed.',
    ]);
    expect(renderReport(rehearsed)).toContain('downtime         262 ms');
    expect(first({ ...rehearsed, role: 'destination' })).toEqual([
      'Rehearsed: web-1 can move; its guest runs on at the source, and nothing was claimed.',
    ]);
    expect(exitCodeOf(rehearsed)).toBe(0);
  });

  test('of one that left something behind at the source', () => {
    const error = new MigrationError('hypervisor', 'QEMU does not answer', { owner: 'destination' });
    expect(first({ ...completed, error })).toEqual([
      'Completed: web-1 has moved, the destination has it.',
      'But: QEMU does not answer',
    ]);
  });

  test('at the destination', () => {
    const report = { ...completed, role: 'destination', rounds: 0, throttleMax: 0 } as const;
    expect(renderReport(report)[0]).toBe('Completed: web-1 has moved, it is here.');
    expect(renderReport(report).join('\n')).not.toContain('rounds');
  });

  test('of a destination whose hooks were called', () => {
    const report = {
      ...completed,
      role: 'destination',
      hooks: { beforeStartMs: 40, afterStartMs: 3000 },
    } as const;
    expect(renderReport(report)).toContainEqual(
      expect.stringMatching(/^hooks +40 ms before the start, 3\.00 s after it$/),
    );
    const error = new MigrationError('hook-failed', 'afterStart failed: no route', { owner: 'destination' });
    expect(first({ ...report, error })).toEqual([
      'Completed: web-1 has moved, it is here.',
      'But: afterStart failed: no route',
    ]);
    expect(exitCodeOf(report)).toBe(0);
  });

  test('of a failure says where, why, and how the VM is', () => {
    const cause = new Error('ECONNRESET');
    const details = { phase: 'copyDisks', owner: 'source', guest: 'running', cause } as const;
    expect(first(failed(new MigrationError('connection-lost', 'the link broke', details)))).toEqual([
      'Failed while copying disks (connection-lost): the link broke',
      'Caused by: ECONNRESET',
      'The source owns the VM; its guest runs.',
    ]);
  });

  test('of an undecided owner forbids to run the guest, and says what to do', () => {
    const details = { phase: 'handover', owner: 'undecided', guest: 'paused' } as const;
    expect(first(failed(new MigrationError('owner-undecided', 'no answer', details)))).toEqual([
      'Failed while handing over (owner-undecided): no answer',
      'Who owns the VM is undecided: run its guest at neither end until that is settled.',
      'Once the other end can be reached, settle it with: longhaul recover --role source --epoch 3 ...',
    ]);
  });

  test('of a guest that did not start at the destination', () => {
    const details = { phase: 'handover', owner: 'destination', guest: 'paused' } as const;
    const error = new MigrationError('hypervisor', 'cont failed', details);
    expect(first(failed(error, { role: 'destination' })).at(-1)).toBe(
      'The destination owns the VM; its guest is paused.',
    );
  });

  test('of what never began has no figures', () => {
    expect(renderReport(notBegun(new MigrationError('connect-failed', 'nobody there'), 'source'))).toEqual([
      'Failed before it began (connect-failed): nobody there',
      'The source owns the VM; how its guest is, is not known here.',
      '',
      'total  0 ms',
    ]);
  });

  test("a peer's words cannot steer the terminal", () => {
    const error = new MigrationError('peer-failed', 'bad\u001b[2J\nworse', { cause: new Error('\u009b0m') });
    expect(renderReport(failed(error, { vmId: '\u0007' })).join('')).not.toMatch(/\p{Cc}/u);
  });
});

describe('the JSON', () => {
  test('is the report on one line, with its error or null', () => {
    expect(reportJson(completed, completed.error)).not.toContain('\n');
    expect(JSON.parse(reportJson(completed, completed.error))).toEqual({ ...completed, error: null });
  });

  test('has every error with where things stand, and its causes', () => {
    const cause = new Error('broken', { cause: Object.assign(new Error('reset'), { code: 'ECONNRESET' }) });
    for (const code of errorCodes) {
      const error = new MigrationError(code, 'line\nbreak', {
        phase: 'stun',
        owner: 'source',
        guest: 'paused',
        cause,
      });
      const nothing = { phase: null, owner: null, guest: null };
      expect(JSON.parse(reportJson(failed(error), error)).error).toEqual({
        code,
        message: 'line\nbreak',
        phase: 'stun',
        owner: 'source',
        guest: 'paused',
        cause: {
          code: null,
          message: 'broken',
          ...nothing,
          cause: { code: 'ECONNRESET', message: 'reset', ...nothing, cause: null },
        },
      });
    }
  });

  test('ends also where causes go in a circle, or are no errors', () => {
    const loop = new Error('loop');
    loop.cause = loop;
    const error = new MigrationError('internal', 'odd', { cause: loop });
    expect(reportJson(failed(error), error)).toContain('loop');
    const text = new MigrationError('internal', 'odd', { cause: 'just text' });
    expect(JSON.parse(reportJson(failed(text), text)).error.cause).toMatchObject({
      code: null,
      message: 'just text',
    });
  });
});

describe('the exit code', () => {
  test.each([
    ['completed', 'destination', 0],
    ['failed', 'source', 1],
    ['undecided', 'undecided', 2],
    ['failed', 'destination', 3],
  ] as const)('%s with the VM at the %s is %d', (outcome, owner, code) => {
    expect(exitCodeOf({ outcome, owner })).toBe(code);
  });

  test('an error that nobody foresaw does not claim to know who has the VM', () => {
    expect(exitCodeOf(notBegun(new TypeError('oops'), 'source'))).toBe(2);
    expect(foreseen('oops')).toMatchObject({ code: 'internal', owner: 'undecided', message: 'oops' });
  });

  test('wrong usage is no report', () => {
    expect(() => notBegun(new UsageError('--x'), 'source')).toThrow(UsageError);
  });
});

describe('a recovery', () => {
  test.each([
    ['resumed', 'source', 'and its guest runs'],
    ['reclaimed', 'source', 'The destination declined'],
    ['released', 'destination', 'let go of here'],
    ['started', 'destination', 'and its guest runs'],
    ['declined', 'source', 'never starts here'],
    ['undecided', 'undecided', 'do not run the guest'],
    ['none', 'source', 'Nothing to do: the VM is the source\u2019s.'],
  ] satisfies [RecoveryReport['action'], RecoveryReport['owner'], string][])(
    'that %s',
    (action, owner, text) => {
      const context = { register: '/var/lib/registers', guest: 'running' as const };
      const lines = renderRecovery({ vmId: 'web-1', epoch: 3, owner, action }, context);
      expect(lines[0]).toContain(text);
      expect(lines.slice(2)).toEqual([
        'VM        web-1',
        'register  /var/lib/registers',
        'attempt   3',
        `owner     ${owner}`,
      ]);
    },
  );

  test.each(['resumed', 'reclaimed'] as const)('that %s does not say that a paused guest runs', (action) => {
    const context = { register: '/r', guest: 'paused' as const };
    const [text] = renderRecovery({ vmId: 'web-1', epoch: 3, owner: 'source', action }, context);
    expect(text).toContain('its guest is paused, as it was');
    expect(text).not.toContain('runs');
  });
});
