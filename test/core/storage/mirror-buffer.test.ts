/** Goal: what waits is bounded, also as the bound moves, and nobody is held for longer than was said. Method: a buffer in virtual time. */
import { describe, expect, it } from 'vitest';
import { MirrorBuffer } from '../../../src/core/storage/mirror-buffer.ts';
import { createVirtualEnvironment } from '../../support/virtual-environment.ts';

describe('MirrorBuffer', () => {
  it('keeps what it took when its bound falls, takes nothing before it is below that, and more again when it rises', () => {
    const buffer = new MirrorBuffer(createVirtualEnvironment(), 100);
    expect(buffer.take(80)).toBe(true);
    buffer.bound(50);
    expect(buffer.bytes).toBe(80);
    expect(buffer.take(1)).toBe(false);
    buffer.give(40);
    expect([buffer.take(10), buffer.take(1)]).toEqual([true, false]);
    buffer.bound(60);
    expect(buffer.take(10)).toBe(true);
  });

  it('holds for as long as is said now, and takes as much again meanwhile', async () => {
    const environment = createVirtualEnvironment();
    const buffer = new MirrorBuffer(environment, 100);
    expect([buffer.take(100), buffer.take(100)]).toEqual([true, false]);
    expect(buffer.hold()).toBeUndefined();
    buffer.holdFor(30);
    expect([buffer.take(100), buffer.take(1)]).toEqual([true, false]);
    const held = buffer.hold() as Promise<void>;
    buffer.holdFor(10);
    const next = buffer.hold() as Promise<void>;
    await environment.run(next);
    expect(environment.now()).toBe(10);
    await environment.run(held);
    expect(environment.now()).toBe(30);
    expect(buffer.longestHoldMs).toBe(30);
  });

  it('lets go when there is room, when the bound rises, and when nothing may be held', async () => {
    const environment = createVirtualEnvironment();
    for (const free of ['give', 'bound', 'holds', 'close'] as const) {
      const buffer = new MirrorBuffer(environment, 100);
      buffer.holdFor(10_000);
      buffer.take(150);
      const held = buffer.hold() as Promise<void>;
      if (free === 'give') buffer.give(50);
      if (free === 'bound') buffer.bound(150);
      if (free === 'holds') buffer.holds(false);
      if (free === 'close') buffer.close();
      await environment.run(held);
      expect(buffer.longestHoldMs).toBe(0);
    }
  });
});
