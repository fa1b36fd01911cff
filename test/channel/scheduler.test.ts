/**
 * Goal: classes share the link by their weights, none starves, and a stream without credit holds up nobody else. Method: the pure
 * scheduler, drained by the test as a link would.
 */
import { describe, expect, it } from 'vitest';
import { type QueuedFrame, Scheduler } from '../../src/channel/scheduler.ts';
import type { FrameClass } from '../../src/wire/frame.ts';

const frame = (frameClass: FrameClass, stream: number, payloadBytes = 1000): QueuedFrame => ({
  type: 'data',
  class: frameClass,
  stream,
  number: 1,
  payload: [],
  payloadBytes,
  payloadCrc: 0,
  release: () => {},
});

function sendAll(scheduler: Scheduler, frames: number): Record<string, number> {
  const sent: Record<string, number> = {};
  for (let index = 0; index < frames; index++) {
    const next = scheduler.next();
    if (next === undefined) break;
    const key = `${next.class}${next.stream}`;
    sent[key] = (sent[key] ?? 0) + next.payloadBytes;
  }
  return sent;
}

describe('the scheduler', () => {
  it('shares a busy link 5 : 3 : 2 between mirror, memory and bulk, whatever the frame sizes', () => {
    const scheduler = new Scheduler();
    for (const stream of [1, 2, 3]) scheduler.grant(stream, 1e12);
    for (let index = 0; index < 20_000; index++) scheduler.enqueue(frame('mirror', 2, 500));
    for (let index = 0; index < 4000; index++) {
      scheduler.enqueue(frame('memory', 1, 3000));
      scheduler.enqueue(frame('bulk', 3, 7000));
    }
    const sent = sendAll(scheduler, 6000);
    const total = Object.values(sent).reduce((sum, bytes) => sum + bytes, 0);
    expect((sent.mirror2 ?? 0) / total).toBeCloseTo(0.5, 2);
    expect((sent.memory1 ?? 0) / total).toBeCloseTo(0.3, 2);
    expect((sent.bulk3 ?? 0) / total).toBeCloseTo(0.2, 2);
  });

  it('gives a class that was idle its share, and no arrears', () => {
    const scheduler = new Scheduler();
    scheduler.grant(1, 1e12);
    scheduler.grant(2, 1e12);
    for (let index = 0; index < 2000; index++) scheduler.enqueue(frame('memory', 1));
    sendAll(scheduler, 1000);
    for (let index = 0; index < 1000; index++) scheduler.enqueue(frame('bulk', 2));
    const sent = sendAll(scheduler, 500);
    expect((sent.memory1 ?? 0) / 500_000).toBeCloseTo(0.6, 1);
  });

  it('takes turns between the disks of a class', () => {
    const scheduler = new Scheduler();
    for (const stream of [2, 3, 4]) scheduler.grant(stream, 1e12);
    for (let index = 0; index < 300; index++) {
      for (const stream of [2, 3, 4]) scheduler.enqueue(frame('bulk', stream));
    }
    expect(sendAll(scheduler, 300)).toEqual({ bulk2: 100_000, bulk3: 100_000, bulk4: 100_000 });
  });

  it('sends nothing beyond a stream’s credit, and everything else meanwhile', () => {
    const scheduler = new Scheduler();
    scheduler.grant(2, 2500);
    scheduler.grant(3, 1e12);
    for (let index = 0; index < 10; index++) {
      scheduler.enqueue(frame('bulk', 2));
      scheduler.enqueue(frame('bulk', 3));
    }
    expect(sendAll(scheduler, 100)).toEqual({ bulk2: 2000, bulk3: 10_000 });
    expect(scheduler.queuedBytes).toBe(8000);
    scheduler.grant(2, 10_000);
    expect(sendAll(scheduler, 100)).toEqual({ bulk2: 8000 });
  });
});
