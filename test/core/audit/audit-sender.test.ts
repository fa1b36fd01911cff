/** Goal: neither end holds much of an audit of everything, and nothing that an answer says is believed unchecked. Method: the source's half alone, with a mailbox. */
import { describe, expect, it } from 'vitest';
import type { Channel } from '../../../src/channel/channel.ts';
import { Mailbox } from '../../../src/channel/mailbox.ts';
import { AuditSender } from '../../../src/core/audit/audit-sender.ts';
import { noMemory } from '../../../src/core/memory/no-memory.ts';
import type { DiskSender } from '../../../src/core/storage/disk-sender.ts';
import type { ByteRange } from '../../../src/interfaces/content.ts';
import type { SourceVm } from '../../../src/interfaces/hypervisor.ts';
import { encodeUnits } from '../../../src/wire/audit-list.ts';
import type { Message, MessageOf } from '../../../src/wire/messages.ts';
import { createVirtualEnvironment } from '../../support/virtual-environment.ts';

const sizeBytes = (1 << 30) + 4096;

function halfOf(mode: 'full' | 'sample') {
  const environment = createVirtualEnvironment();
  const sent: MessageOf<'audit'>[] = [];
  const mailbox = new Mailbox();
  const piece = new Uint8Array(65_536);
  const again: ByteRange[] = [];
  const disk = {
    id: 'disk0',
    sizeBytes,
    blockBytes: 512,
    read: async (_: number, length: number) => [piece.subarray(0, length)],
  };
  const audit = new AuditSender({
    mode,
    vm: { capabilities: { auditMemory: false } } as SourceVm,
    memory: noMemory,
    disks: [
      {
        disk,
        stream: { id: 2 },
        sendAgain: (range: ByteRange) => again.push(range),
      } as unknown as DiskSender,
    ],
    recent: [],
    channel: {
      send: (message: Message) => sent.push(message as MessageOf<'audit'>),
      mailbox,
    } as unknown as Channel,
    environment,
  });
  const answer = (part: number, more: Partial<MessageOf<'audited'>> = {}) =>
    mailbox.deliver({
      type: 'audited',
      attempt: 1,
      part,
      units: 2048,
      bytes: 2048 * 65_536,
      drawn: 2048,
      differing: '',
      ...more,
    });
  const { signal } = new AbortController();
  return { environment, audit, sent, answer, again, signal };
}

/** Until nothing happens any more: the half that is tested waits for nothing but promises, which come before this does. */
const settled = () => new Promise<void>((resolve) => setImmediate(resolve));

describe('an audit of everything', () => {
  it('has three parts unanswered at most, the last of which says so', async () => {
    const { audit, sent, answer, signal } = halfOf('full');
    const sending = audit.send({ attempt: 1, signal });
    for (let part = 1; part <= 9; part++) {
      await settled();
      expect(sent).toHaveLength(Math.min(9, part + 2));
      answer(part, part === 9 ? { units: 1, bytes: 4096, drawn: 1 } : {});
    }
    await sending;
    await audit.answered();
    expect(sent.map(({ last }) => last)).toEqual([...Array(8).fill(false), true]);
    expect(audit.report).toEqual({
      mode: 'full',
      units: 16_385,
      bytes: sizeBytes,
      differing: 0,
      missChance: 0,
    });
    expect(audit.mismatches).toBe(0);
  });

  it('sends again what differed, and forgets it when it does not differ any more', async () => {
    const { audit, answer, again, signal } = halfOf('full');
    for (const attempt of [1, 2]) {
      const sending = audit.send({ attempt, signal });
      const differing = encodeUnits([
        { drawn: true, stream: 2, space: 0, unitBytes: 65_536, units: [7, 16_384] },
      ]);
      for (let part = 1; part <= 9; part++) {
        await settled();
        answer(part, { attempt, differing: part === 1 && attempt === 1 ? differing : '' });
      }
      await sending;
      await audit.answered();
      await audit.sendAgain();
      expect(again.splice(0)).toEqual(
        attempt === 1
          ? [
              { offset: 7 * 65_536, length: 65_536 },
              { offset: 1 << 30, length: 4096 },
            ]
          : [],
      );
      expect(audit.mismatches).toBe(1);
    }
    expect(audit.report.differing).toBe(2);
  });
});

describe('an answer', () => {
  it.each([
    ['of another part', { part: 2 }],
    [
      'of a disk that is not there',
      { differing: encodeUnits([{ drawn: true, stream: 3, space: 0, unitBytes: 4096, units: [1] }]) },
    ],
    [
      'of what lies behind the end of a disk',
      { differing: encodeUnits([{ drawn: true, stream: 2, space: 0, unitBytes: 4096, units: [300_000] }]) },
    ],
    ['that is no list', { differing: 'x' }],
  ])('%s is a protocol error', async (_, wrong) => {
    const { audit, answer, signal } = halfOf('sample');
    await audit.send({ attempt: 1, signal });
    answer(1, wrong);
    await expect(audit.answered()).rejects.toMatchObject({ code: 'protocol' });
  });

  it('to an earlier switchover is passed over', async () => {
    const { audit, answer, signal } = halfOf('sample');
    await audit.send({ attempt: 2, signal });
    answer(1);
    answer(1, { attempt: 2, units: 1024, bytes: 1024 * 4096, drawn: 1024 });
    await audit.answered();
    expect(audit.report.units).toBe(1024);
  });
});
