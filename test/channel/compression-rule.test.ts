/**
 * Goal: compression is chosen where the link is the narrower, and by what was measured alone. Method: properties over any link and any compressor, and a few stories with
 * time.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { CompressionRule, type CompressionVerdict } from '../../src/channel/compression-rule.ts';

const mebibyte = 1 << 20;

interface Case {
  readonly calls: number;
  /** Bytes a second. */
  readonly link: number;
  /** Of one call, in bytes a second. */
  readonly call: number;
  readonly aheadBytes: number;
  readonly itemBytes: number;
}

const cases = fc.record({
  calls: fc.integer({ min: 1, max: 8 }),
  link: fc.double({ min: 1e4, max: 1e11, noNaN: true }),
  call: fc.double({ min: 1e5, max: 1e11, noNaN: true }),
  aheadBytes: fc.nat(64 * mebibyte),
  itemBytes: fc.integer({ min: 1, max: mebibyte }),
});

/** A rule that has just seen an item become half as long at this rate. */
function measured(
  { calls, call }: Pick<Case, 'calls' | 'call'>,
  outputBytes = mebibyte / 2,
): CompressionRule {
  const rule = new CompressionRule(calls);
  rule.compressed({ nowMs: 1000, inputBytes: mebibyte, outputBytes, tookMs: (1000 * mebibyte) / call });
  return rule;
}

function verdictOf({ link, aheadBytes, itemBytes, ...compressor }: Case): CompressionVerdict {
  return measured(compressor).verdict({ nowMs: 1001, bytesPerSecond: link, aheadBytes, itemBytes });
}

describe('whether an item that waits is compressed', () => {
  it('is no where the compressor takes no more than twice what the link does, however much waits', () => {
    fc.assert(
      fc.property(cases, (given) => {
        const link = (given.calls * given.call) / 2;
        expect(verdictOf({ ...given, link })).toBe('no');
      }),
    );
  });

  it('is no where it would not be done when its turn comes', () => {
    fc.assert(
      fc.property(cases, (given) => {
        const aheadBytes = (given.link * given.itemBytes) / given.call;
        expect(verdictOf({ ...given, aheadBytes })).toBe('no');
        expect(verdictOf({ ...given, aheadBytes: 0 })).toBe('no');
      }),
    );
  });

  it('is yes where the compressor is four times as fast, and four times its time is left', () => {
    fc.assert(
      fc.property(cases, (given) => {
        const link = (given.calls * given.call) / 4;
        const aheadBytes = (4 * link * given.itemBytes) / given.call;
        expect(verdictOf({ ...given, link, aheadBytes })).toBe('compress');
      }),
    );
  });

  it('never turns from yes to no for a slower link, a faster compressor or more that waits', () => {
    fc.assert(
      fc.property(cases, fc.double({ min: 1, max: 100, noNaN: true }), (given, factor) => {
        fc.pre(verdictOf(given) === 'compress');
        expect(verdictOf({ ...given, link: given.link / factor })).toBe('compress');
        expect(verdictOf({ ...given, call: given.call * factor })).toBe('compress');
        expect(verdictOf({ ...given, aheadBytes: given.aheadBytes * factor })).toBe('compress');
      }),
      { numRuns: 1000 },
    );
  });

  it('is no while the link was not measured', () => {
    fc.assert(
      fc.property(cases, ({ aheadBytes, itemBytes, ...compressor }) => {
        const rule = measured(compressor);
        for (const bytesPerSecond of [undefined, 0]) {
          expect(rule.verdict({ nowMs: 1001, bytesPerSecond, aheadBytes, itemBytes })).toBe('no');
        }
      }),
    );
  });
});

describe('what is not known is tried on a sample', () => {
  const outlook = { bytesPerSecond: 10e6, aheadBytes: 4 * mebibyte, itemBytes: mebibyte };
  const good = { inputBytes: 65_536, outputBytes: 20_000, tookMs: 1 };
  const bad = { inputBytes: 65_536, outputBytes: 60_000, tookMs: 1 };

  it('at first, and then the whole', () => {
    const rule = new CompressionRule(2);
    expect(rule.verdict({ nowMs: 0, ...outlook })).toBe('sample');
    expect(rule.sampled({ nowMs: 1, ...good })).toBe(true);
    expect(rule.verdict({ nowMs: 1, ...outlook })).toBe('compress');
  });

  it('and what does not shrink by an eighth is left alone, for longer each time, up to a second', () => {
    const rule = new CompressionRule(2);
    let nowMs = 0;
    for (const pauseMs of [50, 100, 200, 400, 800, 1000, 1000]) {
      expect(rule.sampled({ nowMs, ...bad })).toBe(false);
      expect(rule.verdict({ nowMs: nowMs + pauseMs - 1, ...outlook })).toBe('no');
      expect(rule.verdict({ nowMs: nowMs + pauseMs, ...outlook })).toBe('sample');
      nowMs += pauseMs;
    }
    expect(rule.sampled({ nowMs, ...good })).toBe(true);
    expect(rule.verdict({ nowMs, ...outlook })).toBe('compress');
    expect(rule.sampled({ nowMs, ...bad })).toBe(false);
    expect(rule.verdict({ nowMs: nowMs + 50, ...outlook })).toBe('sample');
  });

  it('and an item that does not shrink is a sample too', () => {
    const rule = measured({ calls: 2, call: 1e9 }, mebibyte - 1);
    expect(rule.verdict({ nowMs: 1049, ...outlook })).toBe('no');
    expect(rule.verdict({ nowMs: 1050, ...outlook })).toBe('sample');
  });

  it('a compressor that was too slow is measured again after a second, and not before', () => {
    const slow = measured({ calls: 2, call: 1e6 });
    expect(slow.verdict({ nowMs: 1500, ...outlook })).toBe('no');
    expect(slow.verdict({ nowMs: 2000, ...outlook })).toBe('no');
    expect(slow.verdict({ nowMs: 2001, ...outlook })).toBe('sample');
    slow.sampled({ nowMs: 2002, ...good });
    expect(slow.verdict({ nowMs: 2002, ...outlook })).toBe('compress');
  });

  it('a link beyond 200 MB/s is left alone where two calls are all that there is, and none was measured', () => {
    const rule = new CompressionRule(2);
    const verdict = (bytesPerSecond: number) =>
      rule.verdict({ nowMs: 0, bytesPerSecond, aheadBytes: 64 * mebibyte, itemBytes: mebibyte });
    expect(verdict(201e6)).toBe('no');
    expect(verdict(199e6)).toBe('sample');
  });

  it('a clock too coarse to see a call counts it as fast', () => {
    const rule = new CompressionRule(1);
    rule.compressed({ nowMs: 5, inputBytes: mebibyte, outputBytes: 10, tookMs: 0 });
    expect(rule.verdict({ nowMs: 5, bytesPerSecond: 1e12, aheadBytes: mebibyte, itemBytes: mebibyte })).toBe(
      'compress',
    );
  });
});
