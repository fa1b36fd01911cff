/**
 * Goal: classes share the link by their weights, none starves, and a stream without credit holds up nobody else. Method: the pure
 * scheduler, drained by the test as a link would.
 */
import { describe, expect, it } from 'vitest';
import { type QueuedFrame, Scheduler } from '../../src/channel/scheduler.ts';
import type { FrameClass } from '../../src/wire/frame.ts';
import { numbersAheadMax } from '../../src/wire/limits.ts';

const frame = (frameClass: FrameClass, stream: number, payloadBytes = 1024, number = 1): QueuedFrame => ({
  type: 'data',
  class: frameClass,
  stream,
  number,
  payload: [],
  payloadBytes,
  itemBytes: payloadBytes,
  queuedMs: 0,
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
    for (const stream of [1, 2, 3]) scheduler.grant(stream, 1e12, 0);
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
    scheduler.grant(1, 1e12, 0);
    scheduler.grant(2, 1e12, 0);
    for (let index = 0; index < 2000; index++) scheduler.enqueue(frame('memory', 1));
    sendAll(scheduler, 1000);
    for (let index = 0; index < 1000; index++) scheduler.enqueue(frame('bulk', 2));
    const sent = sendAll(scheduler, 500);
    expect((sent.memory1 ?? 0) / (500 * 1024)).toBeCloseTo(0.6, 1);
  });

  it('takes turns between the disks of a class', () => {
    const scheduler = new Scheduler();
    for (const stream of [2, 3, 4]) scheduler.grant(stream, 1e12, 0);
    for (let index = 0; index < 300; index++) {
      for (const stream of [2, 3, 4]) scheduler.enqueue(frame('bulk', stream));
    }
    expect(sendAll(scheduler, 300)).toEqual({ bulk2: 102_400, bulk3: 102_400, bulk4: 102_400 });
  });

  it('sends nothing beyond a stream’s credit, and everything else meanwhile', () => {
    const scheduler = new Scheduler();
    scheduler.grant(2, 2500, 0);
    scheduler.grant(3, 1e12, 0);
    for (let index = 0; index < 10; index++) {
      scheduler.enqueue(frame('bulk', 2));
      scheduler.enqueue(frame('bulk', 3));
    }
    expect(sendAll(scheduler, 100)).toEqual({ bulk2: 2048, bulk3: 10_240 });
    expect(scheduler.queuedBytes).toBe(8192);
    scheduler.grant(2, 10_240, 0);
    expect(sendAll(scheduler, 100)).toEqual({ bulk2: 8192 });
  });

  it('counts the smallest frame as a kibibyte of credit', () => {
    const scheduler = new Scheduler();
    scheduler.grant(2, 10_240, 0);
    for (let index = 0; index < 100; index++) scheduler.enqueue(frame('mirror', 2, 32));
    expect(sendAll(scheduler, 100)).toEqual({ mirror2: 320 });
  });

  /** A slow disk, stream 2, applies 4 KiB at a time; the link takes four frames meanwhile. Each frame is followed by another like it. */
  const shareOfBulk = (scheduler: Scheduler, steps: number) => {
    const sent = { mirror: 0, memory: 0, bulk: 0 };
    scheduler.enqueue(frame('bulk', 2, 512 << 10));
    for (let index = 0; index < 64; index++) scheduler.enqueue(frame('mirror', 2, 4096));
    for (let step = 1; step <= steps; step++) {
      scheduler.grant(2, (1 << 20) + step * 4096, 0);
      for (let turn = 0; turn < 4; turn++) {
        const next = scheduler.next();
        if (next === undefined) break;
        if (next.stream === 2) sent[next.class] += next.payloadBytes;
        scheduler.enqueue(next);
      }
    }
    return sent.bulk / (sent.bulk + sent.mirror);
  };

  it('shares credit that comes in small steps as it shares the link: the large frames are not starved', () => {
    expect(shareOfBulk(new Scheduler(), 20_000)).toBeCloseTo(2 / 7, 1);
  });

  it('does so in each stream, whatever another stream has of a class', () => {
    const scheduler = new Scheduler();
    scheduler.grant(3, 1e12, 0);
    for (let index = 0; index < 10; index++) scheduler.enqueue(frame('bulk', 3, 64 << 10));
    expect(shareOfBulk(scheduler, 20_000)).toBeCloseTo(2 / 7, 1);
  });

  it('lets a class that had no credit make up for a frame, and not for all that the others had meanwhile', () => {
    const scheduler = new Scheduler();
    scheduler.grant(1, 1e12, 0);
    scheduler.enqueue(frame('bulk', 2, 100_000));
    for (let index = 0; index < 2000; index++) scheduler.enqueue(frame('memory', 1, 100_000));
    sendAll(scheduler, 1000);
    scheduler.grant(2, 1e12, 0);
    for (let index = 0; index < 1000; index++) scheduler.enqueue(frame('bulk', 2, 100_000));
    const sent = sendAll(scheduler, 200);
    expect(sent.memory1 ?? 0).toBeGreaterThan(9_000_000);
  });

  it('sends no number that is too far ahead of what is applied, and always the lowest', () => {
    const scheduler = new Scheduler();
    scheduler.grant(2, 1e12, 0);
    let number = 1;
    for (let index = 0; index < 8; index++) scheduler.enqueue(frame('bulk', 2, 1 << 20, number++));
    for (let index = 0; index < numbersAheadMax + 100; index++) {
      scheduler.enqueue(frame('mirror', 2, 512, number++));
    }
    let highest = 0;
    const bulk: number[] = [];
    for (let next = scheduler.next(); next !== undefined; next = scheduler.next()) {
      highest = Math.max(highest, next.number);
      if (next.class === 'bulk') bulk.push(next.number);
    }
    expect(highest).toBe(numbersAheadMax);
    expect(bulk).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
    scheduler.grant(2, 1e12, 100);
    expect(sendAll(scheduler, 1000)).toEqual({ mirror2: 51_200 });
  });

  it('holds a stream of which something waits and nothing has credit, whatever others have', () => {
    const scheduler = new Scheduler();
    expect(scheduler.isHeld(2)).toBe(false);
    scheduler.grant(2, 150_000, 0);
    scheduler.enqueue(frame('bulk', 2, 100_000));
    scheduler.enqueue(frame('mirror', 2, 100_000));
    scheduler.enqueue(frame('bulk', 3, 100_000));
    expect([scheduler.isHeld(2), scheduler.isHeld(3)]).toEqual([false, true]);
    expect(scheduler.next()?.stream).toBe(2);
    expect(scheduler.isHeld(2)).toBe(true);
    scheduler.grant(2, 300_000, 1);
    expect(scheduler.isHeld(2)).toBe(false);
    expect(scheduler.next()?.stream).toBe(2);
    expect(scheduler.isHeld(2)).toBe(false);
  });

  it('lets go of any number of frames', () => {
    const scheduler = new Scheduler();
    const one = frame('mirror', 2, 32);
    for (let index = 0; index < 200_000; index++) scheduler.enqueue(one);
    expect(scheduler.drain()).toHaveLength(200_000);
    expect([scheduler.queuedBytes, scheduler.next()]).toEqual([0, undefined]);
  });
});
