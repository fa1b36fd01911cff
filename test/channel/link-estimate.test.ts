/**
 * Goal: the rate of a link is what it carried while there was enough to send, and a trickle is not taken for it. Method: the pure estimate, fed
 * with acknowledgements; and a channel in virtual time, over which a lot and then a little is sent.
 */
import { describe, expect, it } from 'vitest';
import { bytesPerSecondAssumed, LinkEstimate } from '../../src/channel/link-estimate.ts';
import { createPair, fixedCredit, item } from './pair.ts';

/** So many bytes every 5 ms, for so long; the last acknowledgement comes at the time that is returned. */
function acknowledge(
  estimate: LinkEstimate,
  startMs: number,
  ms: number,
  bytes: number,
  starved = false,
): number {
  estimate.sent(startMs - 5);
  let nowMs = startMs;
  for (; nowMs < startMs + ms; nowMs += 5) {
    if (starved) estimate.starved(0);
    estimate.acknowledged(bytes, nowMs, 0);
  }
  return nowMs;
}

describe('the estimate of a link', () => {
  it('follows a link that is busy, up and down', () => {
    const estimate = new LinkEstimate();
    estimate.roundTrip(1);
    const now = acknowledge(estimate, 0, 1000, 500_000);
    expect(estimate.bytesPerSecond).toBeCloseTo(100e6, -6);
    acknowledge(estimate, now, 1000, 50_000);
    expect(estimate.bytesPerSecond).toBeCloseTo(10e6, -6);
  });

  it('is right for one that is acknowledged unevenly, as with large frames on several lanes', () => {
    const estimate = new LinkEstimate();
    estimate.roundTrip(1);
    let nowMs = 0;
    // Four megabytes in 320 ms, again and again.
    for (let turn = 0; turn < 20; turn++) {
      for (const ms of [254, 22, 22, 22]) {
        nowMs += ms;
        estimate.acknowledged(1e6, nowMs, 0);
      }
    }
    const rate = estimate.bytesPerSecond ?? 0;
    expect(rate).toBeGreaterThan(0.8 * 12.5e6);
    expect(rate).toBeLessThan(1.4 * 12.5e6);
  });

  it('does not take a link for slow whose first packet was lost, and everything comes at once after it', () => {
    const estimate = new LinkEstimate();
    estimate.roundTrip(10);
    estimate.sent(0, 100);
    for (let frame = 0; frame < 8; frame++) estimate.sent(0, 128 << 10);
    estimate.acknowledged(100, 212, 1 << 20);
    for (let left = 7; left >= 0; left--) {
      estimate.acknowledged(128 << 10, 212, left * (128 << 10));
      estimate.starved(0);
    }
    estimate.idle(212);
    // A megabyte in 212 ms, and not a hundred bytes.
    expect(estimate.bytesPerSecond).toBeGreaterThan(2e6);
  });

  it('does not learn from a trickle how little a link could carry, at first or later', () => {
    const estimate = new LinkEstimate();
    estimate.roundTrip(1);
    let now = acknowledge(estimate, 0, 1000, 500, true);
    expect(estimate.bytesPerSecond).toBeUndefined();
    now = acknowledge(estimate, now, 1000, 500_000);
    acknowledge(estimate, now, 5000, 500, true);
    expect(estimate.bytesPerSecond).toBeCloseTo(100e6, -6);
  });

  it('learns from one that was faster than what it knew how much it can carry at least', () => {
    const estimate = new LinkEstimate();
    estimate.roundTrip(1);
    const now = acknowledge(estimate, 0, 1000, 500_000, true);
    expect(estimate.bytesPerSecond).toBeGreaterThan(bytesPerSecondAssumed);
    expect(estimate.bytesPerSecond).toBeCloseTo(100e6, -6);
    acknowledge(estimate, now, 1000, 5_000_000, true);
    expect(estimate.bytesPerSecond).toBeGreaterThan(900e6);
  });

  it('does not count the round trip in which nothing can have arrived yet', () => {
    const estimate = new LinkEstimate();
    estimate.roundTrip(200);
    // 40 MB/s, sent bit by bit, over a link that carries more.
    for (let nowMs = 0; nowMs < 4000; nowMs += 10) {
      estimate.sent(nowMs, 400_000);
      if (nowMs < 200) continue;
      estimate.starved(0);
      estimate.acknowledged(400_000, nowMs, 8e6);
    }
    expect(estimate.bytesPerSecond).toBeGreaterThan(38e6);
    expect(estimate.bytesPerSecond).toBeLessThan(42e6);
  });

  it('counts the time from sending on after a pause, when frames that shared the link arrive close together', () => {
    const estimate = new LinkEstimate();
    estimate.roundTrip(1);
    for (let nowMs = 0; nowMs < 4000; nowMs += 400) {
      // Four frames of a megabyte in 320 ms, side by side: the link carries 12.5 MB/s.
      estimate.sent(nowMs);
      for (const ms of [254, 276, 298, 320]) {
        estimate.starved(0);
        estimate.acknowledged(1e6, nowMs + ms, 0);
      }
      estimate.idle(nowMs + 320);
    }
    // Less than is assumed of any link, so nothing was learned from it; and not that it is four times as fast.
    expect(estimate.bytesPerSecond).toBeUndefined();
  });

  it('knows what of all that is on its way waits in front of the link', () => {
    const estimate = new LinkEstimate();
    estimate.roundTrip(100);
    let nowMs = acknowledge(estimate, 0, 200, 1_000_000);
    const rate = estimate.bytesPerSecond ?? 0;
    expect(rate).toBeGreaterThan(1e7);
    // A second's worth on its way on a full link, which holds a tenth of a second's.
    expect(estimate.aheadBytes(nowMs, rate) / rate).toBeCloseTo(0.9, 6);
    // One that was idle takes a burst of less than it can hold, in about the time that its rate needs for it.
    nowMs += 10_000;
    const burst = 0.08 * rate;
    const ahead = (ms: number, inFlight = burst) => estimate.aheadBytes(nowMs + ms, inFlight) / rate;
    estimate.sent(nowMs, burst);
    expect(ahead(0)).toBeCloseTo(0.08, 6);
    expect(ahead(40)).toBeCloseTo(0.036, 6);
    expect(ahead(80)).toBe(0);
    // What has arrived is in nobody's way.
    estimate.sent(nowMs + 80, burst);
    expect(ahead(80, burst / 4)).toBeCloseTo(0.02, 6);
  });

  it('counts what was sent while connections had room, if all that the link can hold was on its way', () => {
    const estimate = new LinkEstimate();
    estimate.roundTrip(200);
    // 47.5 MB/s on the mean. No connection has room while some of what they carry is lost, and only then.
    let nowMs = acknowledge(estimate, 0, 1000, 100_000);
    for (let turn = 0; turn < 20; turn++) {
      for (const untilMs = nowMs + 300; nowMs < untilMs; nowMs += 5) {
        estimate.sent(nowMs, 300_000);
        estimate.starved(30e6);
        estimate.acknowledged(300_000, nowMs, 30e6);
      }
      for (const untilMs = nowMs + 100; nowMs < untilMs; nowMs += 5) {
        estimate.sent(nowMs, 50_000);
        estimate.acknowledged(50_000, nowMs, 30e6);
      }
    }
    expect(estimate.bytesPerSecond).toBeGreaterThan(43e6);
    expect(estimate.bytesPerSecond).toBeLessThan(52e6);
  });

  it('rides out a stall of two round trips, and follows a link that has become slow', () => {
    const estimate = new LinkEstimate();
    estimate.roundTrip(100);
    const now = acknowledge(estimate, 0, 2000, 250_000);
    const later = acknowledge(estimate, now, 200, 50_000);
    expect(estimate.bytesPerSecond).toBeGreaterThan(40e6);
    expect(estimate.latelyBytesPerSecond).toBeLessThan(30e6);
    acknowledge(estimate, later, 2000, 50_000);
    expect(estimate.bytesPerSecond).toBeLessThan(16e6);
  });

  it('does not take a guest that writes a little for a full link, when the way has become longer', () => {
    const estimate = new LinkEstimate();
    estimate.roundTrip(20);
    let nowMs = acknowledge(estimate, 0, 2000, 625_000);
    for (let trip = 0; trip < 20; trip++) estimate.roundTrip(100);
    for (let perSecond = 110e6; perSecond >= 20e6; perSecond -= 10e6) {
      for (const untilMs = nowMs + 1000; nowMs < untilMs; nowMs += 5) {
        estimate.sent(nowMs, perSecond / 200);
        estimate.starved(perSecond / 10);
        estimate.acknowledged(perSecond / 200, nowMs, perSecond / 10);
      }
    }
    expect(estimate.bytesPerSecond).toBeGreaterThan(110e6);
  });

  it('sees within two seconds that a far link has become five times as slow', () => {
    const estimate = new LinkEstimate();
    estimate.roundTrip(200);
    const now = acknowledge(estimate, 0, 4000, 625_000);
    acknowledge(estimate, now, 1300, 125_000);
    expect(estimate.bytesPerSecond).toBeLessThan(45e6);
  });

  it('does not take for the rate of a link what it carried while it was being filled', () => {
    const estimate = new LinkEstimate();
    estimate.roundTrip(100);
    let now = 0;
    for (let bytes = 5000; bytes <= 320_000; bytes *= 2) now = acknowledge(estimate, now, 100, bytes);
    acknowledge(estimate, now, 200, 320_000);
    expect(estimate.bytesPerSecond).toBeGreaterThan(0.6 * 64e6);
  });

  it('takes longer round trips for a queue, but not for long if only one was', () => {
    const estimate = new LinkEstimate();
    for (const ms of [100, 120, 120, 120, 120]) estimate.roundTrip(ms);
    expect(estimate.queueMs).toBeGreaterThan(15);
    expect(estimate.queueMs).toBeLessThan(20);
    estimate.roundTrip(100);
    estimate.roundTrip(400);
    estimate.roundTrip(101);
    expect(estimate.queueMs).toBe(1);
  });
});

describe('a channel', () => {
  it('does not take the writes of a quiet guest for the rate of its link', async () => {
    const { environment, near, far } = await createPair({ link: { rateMbit: 400 } });
    const sender = near.openSend(1, 0);
    const stream = far.openReceive(1, 0, fixedCredit(8 << 20), (received) => stream.applied(received));
    for (let index = 0; index < 40; index++) {
      await environment.run(sender.room());
      sender.push('bulk', item(index, 500_000), () => {});
    }
    await environment.run(sender.allApplied());
    const busy = near.statistics.bytesPerSecond ?? 0;
    expect(busy).toBeGreaterThan(40e6);
    for (let index = 0; index < 2000; index++) {
      sender.push('mirror', item(index, 512), () => {});
      await environment.run(environment.now() + 3);
    }
    expect(near.statistics.bytesPerSecond).toBeGreaterThan(0.9 * busy);
  });
});
