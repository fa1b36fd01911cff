/** Goal: between two rounds the link is never waited for when it has nothing to do. Method: the pure wait, told of a queue. */
import { describe, expect, it } from 'vitest';
import { RoundWait } from '../../../src/core/memory/round-wait.ts';

/** For 400 ms of a link that was taken to carry 25 MB/s, of 30 MB in the queue: until there are no more than 20. */
const wait = (changes = {}, roundTripMs = 0) =>
  new RoundWait({ fits: false, waitMs: 400, sendBytesPerSecond: 25e6, ...changes }, 1000, 30e6, roundTripMs);

describe('the wait between two rounds', () => {
  it('is over when the queue is as short as it was to become, however fast that goes', () => {
    expect(wait().isOver(1200, 20.1e6, 0)).toBe(false);
    expect(wait().isOver(1200, 20e6, 0)).toBe(true);
  });

  it('is over after its time, however slowly it goes', () => {
    expect(wait().isOver(1399, 29e6, 0)).toBe(false);
    expect(wait().isOver(1400, 29e6, 0)).toBe(true);
  });

  it('lasts for a round trip where it is for the queue, which may show no sooner that it is shorter', () => {
    const short = { waitMs: 3 };
    expect(wait(short, 150).isOver(1149, 30e6, 0)).toBe(false);
    expect(wait(short, 150).isOver(1150, 30e6, 0)).toBe(true);
    expect(wait(short, 150).isOver(1005, 29.9e6, 0)).toBe(true);
    expect(wait({ waitMs: 0 }, 150).isOver(1005, 30e6, 0)).toBe(true);
    expect(wait({ fits: true, waitMs: 20 }, 150).isOver(1020, 30e6, 0)).toBe(true);
  });

  it('once all fits is until nothing is queued, and nothing late', () => {
    expect(wait({ fits: true }).isOver(1200, 10e6, 0)).toBe(false);
    expect(wait({ fits: true }).isOver(1200, 0, 30)).toBe(false);
    expect(wait({ fits: true }).isOver(1200, 0, 0)).toBe(true);
    expect(wait({ fits: true }).isOver(1400, 10e6, 30)).toBe(true);
    // Before it does, the link is to have work.
    expect(wait().isOver(1200, 20e6, 30)).toBe(true);
  });

  it('is not cut short where it is not the queue that takes so long, but a flush', () => {
    expect(wait({ waitMs: 1300 }).isOver(2299, 0, 0)).toBe(false);
    expect(wait({ waitMs: 1300 }).isOver(2300, 0, 0)).toBe(true);
  });

  it('is a pause where nothing is waited for', () => {
    expect(wait({ waitMs: 0 }).untilMs).toBe(1005);
  });
});
