/**
 * Goal: what a peer can make a stream remember is bounded, whatever it leaves out or sends too much of. Method: the receiving side alone,
 * with a peer that breaks one rule.
 */
import { describe, expect, it } from 'vitest';
import { type ReceivedItem, ReceiveStream } from '../../src/channel/receive-stream.ts';
import { numbersAheadMax } from '../../src/wire/limits.ts';
import { arriving, fixedCredit, item } from './pair.ts';

function createStream(bufferBytes: number, apply: boolean) {
  const arrived: ReceivedItem[] = [];
  const stream: ReceiveStream = new ReceiveStream(
    1,
    0,
    fixedCredit(bufferBytes),
    (received) => {
      arrived.push(received);
      if (apply) stream.applied(received);
    },
    () => {},
  );
  return { stream, arrived };
}

const zero = [{ space: 0, offset: 0, length: 512, content: 'zero' }] as const;

describe('a receiving stream', () => {
  it('remembers only so many numbers above one that was left out', () => {
    const { stream, arrived } = createStream(1 << 20, true);
    const last = numbersAheadMax;
    for (let number = 2; number <= last; number++) stream.accept(arriving(number, zero));
    expect(() => stream.accept(arriving(last + 1, zero))).toThrow(/beyond its credit/);
    expect(arrived).toHaveLength(last - 1);
  });

  it('takes them on once the gap is closed', () => {
    const { stream } = createStream(1 << 20, true);
    stream.accept(arriving(numbersAheadMax, zero));
    stream.accept(arriving(1, zero));
    stream.accept(arriving(numbersAheadMax + 1, zero));
    expect(stream.appliedThrough).toBe(1);
  });

  it('charges the smallest item with a kibibyte, and gives as much back', () => {
    const { stream, arrived } = createStream(100 << 10, false);
    for (let number = 1; number <= 100; number++) stream.accept(arriving(number, zero));
    expect(() => stream.accept(arriving(101, zero))).toThrow(/beyond its credit/);
    for (const received of arrived) stream.applied(received);
    expect(stream.position.creditBytes).toBe(200 << 10);
  });

  it('hands over nothing that comes after its end, until it goes on', () => {
    const { stream, arrived } = createStream(1 << 20, true);
    const numbers = () => arrived.map(({ number }) => number);
    stream.accept(arriving(2, item(0, 100)));
    stream.endAt(2);
    expect(stream.goesOn).toBe(false);
    stream.accept(arriving(4, item(0, 100)));
    stream.accept(arriving(1, item(0, 100)));
    stream.accept(arriving(3, item(0, 100)));
    expect(stream.goesOn).toBe(true);
    expect(numbers()).toEqual([2, 1]);
    expect(stream.appliedThrough).toBe(2);
    stream.goOn();
    expect(numbers()).toEqual([2, 1, 4, 3]);
    stream.accept(arriving(5, item(0, 100)));
    expect(stream.appliedThrough).toBe(5);
  });

  it('sees that it goes on when that came before its end was known', () => {
    const { stream } = createStream(1 << 20, true);
    stream.accept(arriving(1, item(0, 100)));
    stream.accept(arriving(2, item(0, 100)));
    stream.endAt(1);
    expect(stream.goesOn).toBe(true);
  });

  it('keeps no more after its end than its credit allows', () => {
    const { stream } = createStream(100 << 10, true);
    stream.endAt(0);
    for (let number = 1; number <= 100; number++) stream.accept(arriving(number, zero));
    expect(() => stream.accept(arriving(101, zero))).toThrow(/beyond its credit/);
  });
});
